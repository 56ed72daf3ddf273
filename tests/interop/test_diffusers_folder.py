"""Folders of diffusers: outputs equal those of its own network; a field that changes the network is refused by name."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file

from denoisezoo.cli import main
from denoisezoo.diffusion import Given
from denoisezoo.errors import UserError
from denoisezoo.runs.run import load_run

diffusers = pytest.importorskip("diffusers", reason="the test extra brings diffusers")
SIZES = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
DDPM = {  # google/ddpm-cifar10-32
    "norm_eps": 1e-6,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}
KINDS = {
    "DDPM's": DDPM,
    "the library's defaults": {},
    "classes and 16 groups": DDPM | {"num_class_embeds": 5, "norm_num_groups": 16},
    "a learned variance": {"out_channels": 6},
}


def network(**fields):
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(**SIZES | fields).eval()
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.03 * torch.randn_like(weight))
    return net


def pipeline(folder, scheduler=None, **fields):
    """A pipeline on disk, and its network."""
    net = network(**fields)
    diffusers.DDPMPipeline(net, scheduler or diffusers.DDPMScheduler()).save_pretrained(folder)
    return net


def difference(net, folder, labels=None):
    """Between our network's output and theirs, relative to its standard deviation."""
    x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 980])
    with torch.no_grad():
        theirs = net(x, t, class_labels=labels).sample
        ours = load_run(f"diffusers:{folder}").denoiser.backbone(x, t.float(), Given(label=labels))
    return ((theirs - ours).abs().max() / theirs.std()).item()


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_diffusers(kind, tmp_path):
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range") if "learned" in kind else None
    net = pipeline(tmp_path, scheduler, **KINDS[kind])
    assert difference(net, tmp_path, torch.tensor([0, 4]) if "classes" in kind else None) < 2e-5


def test_a_bin_an_older_layout_and_older_names_are_read(tmp_path):
    """Files in the root, as in google/ddpm-cifar10-32, and attention as it was named then."""
    net = pipeline(tmp_path)
    unet = tmp_path / "unet"
    state = load_file(unet / "diffusion_pytorch_model.safetensors")
    for old, new in {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}.items():
        state = {name.replace(f".{new}.", f".{old}."): value for name, value in state.items()}
    torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    (unet / "config.json").rename(tmp_path / "config.json")
    unet.rmdir()
    assert difference(net, tmp_path) < 2e-5


def test_a_network_in_parts_is_read(tmp_path):
    net = network()
    net.save_pretrained(tmp_path / "unet", max_shard_size="100KB")
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "scheduler")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    assert difference(net, tmp_path / "unet") < 2e-5


def test_a_network_alone_needs_a_schedule(tmp_path):
    network().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"its noise schedule is not known; .*diffusers,schedule=linear:PATH"):
        load_run(f"diffusers:{tmp_path}")
    assert load_run(f"diffusers,schedule=cosine:{tmp_path}").denoiser.process.schedule == "cosine"


SCHEDULERS = {
    "DDPM, large": (
        "DDPMScheduler",
        {"variance_type": "fixed_large"},
        "ddpm:variance=large,clip=true,time_grid=leading",
    ),
    "DDIM": ("DDIMScheduler", {"clip_sample": False}, "ddim:clip=false,clipped_eps=kept,time_grid=leading"),
    "DPM-Solver++": ("DPMSolverMultistepScheduler", {}, "dpmpp_2m:time_grid=multistep_linspace"),
    "Euler": ("EulerDiscreteScheduler", {}, "ddim:time_grid=linspace_fractional"),
}


@pytest.mark.parametrize("case", SCHEDULERS)
def test_the_scheduler_gives_the_sampler(case, tmp_path):
    name, fields, sampler = SCHEDULERS[case]
    pipeline(tmp_path, getattr(diffusers, name)(**fields))
    assert load_run(f"diffusers:{tmp_path}").sampling()["sampler"] == sampler


CHAINS = [(beta, prediction) for beta in ("linear", "squaredcos_cap_v2") for prediction in ("epsilon", "sample")]


@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [*CHAINS, ("linear", "v_prediction"), ("squaredcos_cap_v2", "v_prediction"), ("scaled_linear", "epsilon")],
)
def test_process_and_prediction_are_the_scheduler_s(schedule, prediction, tmp_path):
    scheduler = diffusers.DDPMScheduler(prediction_type=prediction, beta_schedule=schedule, clip_sample=False)
    net = pipeline(tmp_path, scheduler)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    index = 600
    with torch.no_grad():
        theirs = scheduler.step(net(x.float(), index).sample, index, x.float()).pred_original_sample
        t = torch.full((2,), index + 1.0, dtype=torch.float64)
        ours = load_run(f"diffusers:{tmp_path}").denoiser(x, t).u_0
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-4 * theirs.std().item())


def test_a_pipeline_of_latents_says_so(tmp_path, capsys):
    """As LDMPipeline: three channels of latents would pass for a picture."""
    pipeline(tmp_path)
    edit(tmp_path / "model_index.json", _class_name="LDMPipeline", vqvae=["diffusers", "VQModel"])
    assert load_run(f"diffusers:{tmp_path}").config["source"]["latents"] == {"autoencoder": "VQModel"}
    assert main(["sample", f"diffusers:{tmp_path}", "--num", "1", "--steps", "1"]) == 2
    assert "makes latents of 3 channels, which no codec of it decodes" in capsys.readouterr().err


def edit(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


WRONG = {
    "act_fn": ("gelu", "has act_fn 'gelu'; only 'silu' is known"),
    "resnet_time_scale_shift": ("scale_shift", "has resnet_time_scale_shift"),
    "downsample_type": ("resnet", "has downsample_type"),
    "class_embed_type": ("timestep", "has class_embed_type"),
    "freq_shift": (2, "has freq_shift 2"),
    "sample_size": ([8, 16], "has sample_size"),
    "gate": (1, "unknown field of UNet2DModel in .*: 'gate'"),
    "layers_per_block": (2, "down_blocks.0.resnets.1.norm1.weight is missing"),
    "block_out_channels": ([32, 96], "should give"),
    "down_block_types": (["SkipDownBlock2D", "AttnDownBlock2D"], "has a SkipDownBlock2D"),
    "up_block_types": (["UpBlock2D", "UpBlock2D"], "do not mirror"),
    "_class_name": ("UNet2DConditionModel", "is of a 'UNet2DConditionModel'"),
}


@pytest.mark.parametrize("field", WRONG)
def test_a_field_that_changes_the_network_is_refused(field, tmp_path):
    value, message = WRONG[field]
    pipeline(tmp_path)
    edit(tmp_path / "unet" / "config.json", **{field: value})
    with pytest.raises(UserError, match=message):
        load_run(f"diffusers:{tmp_path}")


WRONG_SCHEDULERS = {
    "beta_schedule": ("sigmoid", "has beta_schedule 'sigmoid'; only linear, scaled_linear, squaredcos_cap_v2 is known"),
    "prediction_type": ("flow", "has prediction_type 'flow'"),
    "rescale_betas_zero_snr": (True, "has rescale_betas_zero_snr True"),
    "trained_betas": ([0.1], "has trained_betas"),
    "_class_name": ("RePaintScheduler", "unknown scheduler in"),
}


@pytest.mark.parametrize("field", WRONG_SCHEDULERS)
def test_a_scheduler_that_is_not_known_is_refused(field, tmp_path):
    value, message = WRONG_SCHEDULERS[field]
    pipeline(tmp_path)
    edit(tmp_path / "scheduler" / "scheduler_config.json", **{field: value})
    with pytest.raises(UserError, match=message):
        load_run(f"diffusers:{tmp_path}")


class Calls:
    def __reduce__(self):
        return os.mkdir, ("canary",)


def test_a_folder_that_is_none_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkdir("empty")
    pipeline("other")
    edit(tmp_path / "other" / "model_index.json", unet=["their_module", "UNet2DModel"])
    pipeline("hostile")
    os.remove("hostile/unet/diffusion_pytorch_model.safetensors")
    torch.save({"conv_in.weight": Calls()}, "hostile/unet/diffusion_pytorch_model.bin")
    pipeline("damaged")
    with open("damaged/unet/diffusion_pytorch_model.safetensors", "r+b") as file:
        file.write(b"\xff\xff\xff\xff\xff\xff\xff\x00")
    pipeline("climbing")
    os.remove("climbing/unet/diffusion_pytorch_model.safetensors")
    index = tmp_path / "climbing" / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../../other/unet/config.json"}}))
    said = {
        "nowhere": "is no folder",
        "empty": "holds neither model_index.json nor config.json",
        "other": "is their_module.UNet2DModel",
        "hostile": "asks for posix.mkdir, which could run code",
        "damaged": "is damaged or no safetensors file",
        "climbing": "does not name files beside it",
    }
    for name, message in said.items():
        assert main(["import", f"diffusers:{name}", "--out", "imported"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not os.path.exists("canary")
    assert not os.path.exists("imported")


def test_an_imported_pipeline_is_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipeline("pipe", diffusers.DDIMScheduler())
    assert main(["import", "diffusers:pipe", "--out", "runs/pipe"]) == 0
    assert main(["sample", "runs/pipe", "--num", "1", "--steps", "2"]) == 0
    before, after = load_run("diffusers:pipe"), load_run("runs/pipe")
    assert before.config == after.config
    for name, value in before.denoiser.state_dict().items():
        assert torch.equal(after.denoiser.state_dict()[name], value)
