"""Folders for diffusers: its own network gives our outputs, and reading the folder gives our network bit for bit."""

import pytest
import torch

import denoisezoo as dz
from denoisezoo.errors import UserError
from denoisezoo.plans import Plan

diffusers = pytest.importorskip("diffusers", reason="the test extra brings diffusers")
SMALL = {"resolution": 8, "channels": 32, "multipliers": (1, 2), "blocks": 1, "attention": (4,)}
KINDS = {
    "DDPM's": ({}, dz.diffusion.VPDiscrete(), "eps"),
    "the port's, of fewer groups": (
        {"norm_groups": 16, "norm_eps": 1e-5, "endpoint": False, "pad_around": True, "cosines_first": True},
        dz.diffusion.VPDiscrete("cosine"),
        "v",
    ),
    "heads, classes and a learned variance": (
        {"head_channels": 16, "num_classes": 5, "out_channels": 6},
        dz.diffusion.VPDiscrete(T=500, beta_start=1e-3, beta_end=0.03),
        "x0",
    ),
    "latent diffusion's chain": ({}, dz.diffusion.VPDiscrete("scaled_linear", 1000, 0.00085, 0.012), "eps"),
}


def small(process=None, preconditioning=None, name="ddpm_cifar10", **sizes):
    """A denoiser whose every layer counts."""
    made = dz.create_denoiser(
        name, dz.diffusion.VPDiscrete() if process is None else process, preconditioning, **SMALL | sizes
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in made.backbone.parameters():
            weight.add_(0.03 * torch.randn_like(weight))
    return made.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_gives_our_outputs_and_reading_gives_our_network(kind, tmp_path):
    sizes, process, prediction = KINDS[kind]
    ours = small(process, prediction, **sizes)
    (file,) = dz.export(ours, tmp_path / "out", format="diffusers").files
    assert file.difference < 1e-5
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    unet = diffusers.UNet2DModel.from_pretrained(tmp_path / "out" / "unet").eval()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    index, label = torch.tensor([3, process.T - 1]), torch.tensor([0, 4]) if "num_classes" in sizes else None
    with torch.no_grad():
        theirs = unet(x, index, class_labels=label).sample
        expected = ours.backbone(x, index.float(), dz.Given(label=label))
    assert (theirs - expected).abs().max() < 1e-5 * expected.std()
    alpha_bar = process.alpha(torch.arange(1, process.T + 1, dtype=torch.float64)) ** 2
    torch.testing.assert_close(pipeline.scheduler.alphas_cumprod.double(), alpha_bar, rtol=5e-5, atol=1e-9)
    again = dz.load(f"diffusers:{tmp_path / 'out'}")
    assert type(again.preconditioning) is type(ours.preconditioning)
    torch.testing.assert_close(again.process.betas, process.betas, rtol=1e-12, atol=0)
    weights = again.backbone.state_dict()
    assert weights.keys() == ours.backbone.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in ours.backbone.state_dict().items())


def test_a_network_of_other_sizes_is_called_after_its_source(tmp_path):
    """Not after the variant whose class and defaults it shares; also once it is a file of ours."""
    dz.export(small(), tmp_path / "mine", format="diffusers")
    run = dz.load(f"diffusers:{tmp_path / 'mine'}").run
    assert run.name == "diffusers_mine"
    dz.export(run, tmp_path / "out")
    assert dz.load(tmp_path / "out" / "diffusers_mine.safetensors").run.name == "diffusers_mine"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# diffusers_mine" in card
    assert "Family ddpm" in card


def test_the_pipeline_makes_images(tmp_path):
    dz.export(small(), tmp_path / "out", format="diffusers")
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(batch_size=2, num_inference_steps=2, output_type="np").images.shape == (2, 8, 8, 3)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DDPMScheduler"])
def test_an_imported_pipeline_goes_back_as_it_was(scheduler, tmp_path):
    made = getattr(diffusers, scheduler)(clip_sample=False, timestep_spacing="trailing")
    torch.manual_seed(0)
    sizes = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    net = diffusers.UNet2DModel(**sizes)
    diffusers.DDPMPipeline(net, made).save_pretrained(tmp_path / "in")
    dz.export(f"diffusers:{tmp_path / 'in'}", tmp_path / "out", format="diffusers")
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    assert type(again.scheduler) is type(made)
    for key in ("clip_sample", "timestep_spacing", "prediction_type", "num_train_timesteps"):
        assert again.scheduler.config[key] == made.config[key]
    weights = again.unet.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())


REFUSED = {
    "a conditioning image": ({"cond_channels": 1}, "vp_discrete", "it takes a conditioning image"),
    "one attention in a level": ({"attend_once": True}, "vp_discrete", "it attends once"),
    "groups by width": ({"norm_groups": None, "channels": 16}, "vp_discrete", "has norms of 4 and .* groups"),
    "another width at full size": ({"multipliers": (2, 2)}, "vp_discrete", "another width in its first convolution"),
    "another process": ({}, "vp", "diffusers has no scheduler that is VP;"),
    "another schedule": ({}, dz.diffusion.VPDiscrete("sigmoid"), "no scheduler that is VPDiscrete sigmoid;"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_twin_is_refused(case, tmp_path):
    sizes, process, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        dz.export(small(process, **sizes), tmp_path / "out", format="diffusers")
    assert not list(tmp_path.iterdir())


def test_a_slimmable_network_has_a_twin_at_full_width_alone(tmp_path):
    sizes = {"resolution": 8, "channels": 128, "num_classes": 0, "cond_channels": 0, "augment_dim": 0}
    torch.manual_seed(0)
    slim = dz.create_denoiser("slim_ddpm_cifar10", "vp_discrete", **sizes)
    with pytest.raises(UserError, match=r"has no twin in diffusers: its .* is .*, and the twin's"):
        dz.export(slim, tmp_path / "out", format="diffusers", plan=Plan((0.5, 1.0), (0.0,)))
    assert not list(tmp_path.iterdir())


def test_latents_and_other_networks_are_refused(tmp_path):
    haar = dz.create_denoiser(
        "ddpm_cifar10", "vp_discrete", codec="haar", **SMALL | {"in_channels": 12, "out_channels": 12}
    )
    with pytest.raises(UserError, match="denoises latents of haar"):
        dz.export(haar, tmp_path / "out", format="diffusers")
    with pytest.raises(UserError, match="no network of DDPM's kind"):
        dz.export(dz.create_denoiser("dico_digits", "vp_discrete"), tmp_path / "out", format="diffusers")
