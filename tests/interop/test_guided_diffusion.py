"""State dictionaries of guided- and improved-diffusion: outputs equal those of their code; heads must be told."""

import pytest
import torch

from denoisezoo.cli import main
from denoisezoo.diffusion import Given
from denoisezoo.errors import UserError
from denoisezoo.interop import find_address
from denoisezoo.interop.openai_unet import read_sizes
from denoisezoo.interop.unet_map import build_on_meta
from denoisezoo.runs.run import load_run
from tests.interop.written import eight, filled, image, layout

# openai/guided-diffusion 22e0df8 and improved-diffusion 1bc7bbb, unet.py, UNetModel: outputs for the images of `image`,
# steps 3 and 870 and labels 0 and 2, on a CPU in float32.
CASES = {
    "guided_legacy": (
        "num_heads=4",
        [0.112863, -0.404101, 0.009652, -0.188349, 0.228119, 0.317443, -0.057049, -0.006369],
    ),
    "guided_new": (
        "num_head_channels=16,use_new_attention_order=true",
        [0.509082, -0.641191, -0.218254, -0.339179, -1.390836, -0.029213, -1.351053, -0.582466],
    ),
    "improved_scale": (
        "num_heads=4",
        [0.519477, 0.310501, -0.144527, -0.360347, -0.368446, -0.250431, -0.199585, 0.748663],
    ),
    "improved_shift": (
        "num_heads=1",
        [0.211028, 0.120615, 0.186258, 0.077134, 0.298702, -0.162756, -0.510168, -0.526423],
    ),
}


def write(path, name, change=lambda weights: None):
    weights = filled(layout(name)[0])
    change(weights)
    torch.save(weights, path)
    return path


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_openai(name, tmp_path):
    options, theirs = CASES[name]
    path = write(tmp_path / "model.pt", name)
    run = load_run(f"guided,image_size=8,{options}:{path}")
    net = run.denoiser.backbone
    label = torch.tensor([0, 2]) if net.spec.num_classes else None
    with torch.no_grad():
        y = net(image(2, 3, 8, 8), torch.tensor([3.0, 870.0]), Given(label=label))
    torch.testing.assert_close(eight(y), torch.tensor(theirs), rtol=0, atol=1e-5)
    assert run.sampling() == {
        "sampler": f"ddpm:variance={'learned' if net.spec.learned_variance else 'large'}",
        "steps": 250,
    }


def test_the_order_of_the_rows_leaves_no_trace_and_matters(tmp_path):
    path = write(tmp_path / "model.pt", "guided_new")
    net = load_run(f"guided,image_size=8,num_head_channels=16:{path}").denoiser.backbone
    with torch.no_grad():
        y = net(image(2, 3, 8, 8), torch.tensor([3.0, 870.0]))
    assert (eight(y) - torch.tensor(CASES["guided_new"][1])).abs().max() > 0.05


def test_a_longer_chain_has_smaller_betas_and_scaled_labels(tmp_path):
    path = write(tmp_path / "model.pt", "improved_scale")
    flags = "image_size=8,num_heads=4,diffusion_steps=4000"
    run = load_run(f"guided,{flags},rescale_timesteps=true:{path}")
    assert run.denoiser.process.T == 4000
    assert run.denoiser.process.betas[[0, -1]].tolist() == pytest.approx([2.5e-5, 5e-3])
    plain = load_run(f"guided,{flags}:{path}").denoiser.backbone
    with torch.no_grad():
        scaled = run.denoiser.backbone(image(2, 3, 8, 8), torch.tensor([12.0, 3480.0]))
        torch.testing.assert_close(scaled, plain(image(2, 3, 8, 8), torch.tensor([3.0, 870.0])))
    torch.testing.assert_close(eight(scaled), torch.tensor(CASES["improved_scale"][1]), rtol=0, atol=1e-5)


def test_published_networks_are_known_by_their_sizes(tmp_path):
    """On the meta device: shapes alone."""
    shapes = {
        "time_embed.0.weight": (768, 192),
        "input_blocks.0.0.weight": (192, 3, 3, 3),
        "out.2.weight": (6, 192, 3, 3),
        "label_emb.weight": (1000, 768),
        "input_blocks.1.0.emb_layers.1.weight": (384, 768),
        "input_blocks.4.0.in_layers.2.weight": (192, 192, 3, 3),
    }
    shapes |= {f"input_blocks.{1 + 4 * n}.0.in_layers.2.weight": (192 * (n + 1), 192, 3, 3) for n in range(4)}
    shapes |= {f"input_blocks.{1 + 4 * n}.1.qkv.weight": (1, 1, 1) for n in range(1, 4)}
    shapes |= {f"output_blocks.{n}.0.in_layers.2.weight": (1, 1, 3, 3) for n in range(16)}
    shapes |= {f"output_blocks.{n}.2.in_layers.2.weight": (1, 1, 3, 3) for n in (3, 7, 11)}
    theirs = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    sizes = read_sizes(theirs, tmp_path)
    assert (sizes.widths, sizes.blocks, sizes.num_classes) == ((192, 384, 576, 768), 3, 1000)
    reader, _ = find_address("guided:model.pt")
    flags = reader._flags(tmp_path, sizes)
    assert flags == {
        "image_size": 64,
        "num_head_channels": 64,
        "use_new_attention_order": True,
        "noise_schedule": "cosine",
    }


WRONG = {
    "heads": ("guided,image_size=8", None, "does not tell the heads of its attention; .*guided,num_heads=4:PATH"),
    "size": ("guided,num_heads=4", None, "does not tell the size of its images"),
    "both": ("guided,num_heads=4,num_head_channels=8", None, "one follows from the other"),
    "uneven": ("guided,image_size=8,num_heads=5", None, "num_heads 5 does not divide a width of 64"),
    "option": ("guided,heads=4", None, "unknown option of format guided 'heads'; did you mean num_heads"),
    "value": ("guided,num_heads=four", None, "num_heads of format guided is 'four'; give a whole number"),
    "negative": ("guided,num_heads=-1", None, "num_heads of format guided is -1; give a positive number"),
    "truth": ("guided,rescale_timesteps=yes", None, "give true or false"),
    "schedule": ("guided,noise_schedule=cosin", None, "did you mean cosine"),
    "missing": ("guided,image_size=8,num_heads=4", "middle_block.2.out_layers.3.bias", "out_layers.3.bias is missing"),
    "another": ("guided,image_size=8,num_heads=4", "time_embed.0.weight", "time_embed.0.weight is missing"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told(case, tmp_path):
    format, key, message = WRONG[case]
    path = write(tmp_path / "model.pt", "guided_legacy", lambda weights: weights.pop(key, None))
    with pytest.raises(UserError, match=message):
        load_run(f"{format}:{path}")


def test_keys_that_are_left_over_are_named(tmp_path):
    path = write(tmp_path / "model.pt", "guided_legacy", lambda weights: weights.update(extra=torch.zeros(2, 3)))
    with pytest.raises(UserError, match="extra 2x3 is unknown"):
        load_run(f"guided,image_size=8,num_heads=4:{path}")


def test_another_kind_of_file_is_refused(tmp_path, capsys):
    path = tmp_path / "model.pt"
    for value in ({"model": {"x": torch.zeros(1)}}, [torch.zeros(1)], torch.zeros(1), {}):
        torch.save(value, path)
        assert main(["sample", f"guided:{path}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "holds no weights by name" in line


def test_improved_resampling_has_the_parameters_of_its_code():
    """improved-diffusion's 64-pixel ImageNet network: 128 channels, 3 blocks, 4 heads, 121,063,942 parameters."""
    sizes = {"channels": 128, "num_classes": 0, "attention": (16, 8), "num_heads": 4, "head_channels": 0}
    net = build_on_meta("adm_imagenet64", sizes | {"resampling": "convolution"})
    assert net.num_params() == 121_063_942


def test_an_imported_network_samples_with_its_learned_variance(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "model.pt", "guided_legacy")
    assert main(["import", f"guided,image_size=8,num_heads=4:{path}", "--out", "runs/guided"]) == 0
    run = load_run("runs/guided")
    assert run.config["source"]["options"] == {"image_size": 8, "num_heads": 4}
    assert main(["sample", "runs/guided", "--num", "1", "--steps", "3"]) == 0
    assert (tmp_path / "runs/guided/samples/ddpm_variance=learned_3/grid.png").is_file()
