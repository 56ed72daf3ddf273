"""Weights of DDT: velocities are minus those of its own code, whose time runs the other way."""

import pytest
import torch

from denoisezoo.diffusion import Given
from denoisezoo.errors import UserError
from denoisezoo.runs.run import load_run
from tests.interop.written import eight, image, write_transformer

# MCG-NJU/DDT 1d1b4d2, decoupled_improved_dit.py: DDT(3, 2, 32, 2, 1, 2, num_classes=3) with the weights of `filled`,
# for the images of `image`, its times 0.997 and 0.13, and labels 0 and none; and improved_dit.py: DiT(3, 2, 32, 2, 2,
# num_classes=3) with the same weights but those of s_embedder.
THEIRS = [-1.54564, 1.666307, -0.514104, 2.253382, -0.081834, 0.333736, -2.328187, 0.53551]
IMPROVED = [-0.882572, 0.119072, -1.327512, 1.621393, 0.101138, 0.691753, -0.377327, 1.612949]


def address(tmp_path, options="num_encoder_blocks=1,resolution=8", **how):
    return f"ddt,{options}:{write_transformer(tmp_path / 'last.ckpt', 'ddt', **how)}"


def output(run):
    with torch.no_grad():
        given = Given(label=torch.tensor([0, -1]))
        return eight(run.denoiser.backbone(image(2, 3, 8, 8), 999 * torch.tensor([0.003, 0.87]), given))


def test_velocities_are_minus_those_of_ddt(tmp_path):
    run = load_run(address(tmp_path))
    torch.testing.assert_close(-output(run), torch.tensor(THEIRS), rtol=0, atol=1e-5)
    config = run.denoiser.backbone.config
    assert (config.heads, config.encoder_depth, config.in_channels, config.num_classes) == (2, 1, 3, 3)
    assert run.sampling() == {"sampler": "euler", "steps": 250}


def test_a_checkpoint_of_lightning_holds_both_sets(tmp_path):
    run = load_run(address(tmp_path, training=True))
    torch.testing.assert_close(-output(run), torch.tensor(THEIRS), rtol=0, atol=1e-5)
    raw = load_run(address(tmp_path, training=True), "raw")
    place = "decoder.0.attention.out.bias"
    both = (one.denoiser.backbone.state_dict()[place] for one in (raw, run))
    torch.testing.assert_close(next(both) - next(both), torch.full((32,), 0.25))


def test_the_improved_dit_has_no_encoder(tmp_path):
    def improved(weights):
        for name in [name for name in weights if name.startswith("s_embedder")]:
            del weights[name]

    run = load_run(address(tmp_path, "resolution=8", change=improved))
    torch.testing.assert_close(-output(run), torch.tensor(IMPROVED), rtol=0, atol=1e-5)
    assert run.denoiser.backbone.config.encoder_depth == 0


WRONG = {
    "an encoder that is not told": (
        "resolution=8",
        {},
        "how many of its 2 blocks are the encoder's; give it, e.g.",
    ),
    "another patch": ("patch_size=5", {}, "has patches of 12 numbers, and none of 5x5; give another patch"),
    "no decoder": ("num_encoder_blocks=2,resolution=8", {}, "encoder_depth is 2 of 2 blocks"),
    "a tensor too many": (
        "num_encoder_blocks=1,resolution=8",
        {"change": lambda w: w.update(extra=torch.zeros(2))},
        "extra 2 is unknown",
    ),
    "another kind": (
        "resolution=8",
        {"change": lambda w: w.pop("x_embedder.proj.weight")},
        "x_embedder.proj.weight is missing or of another kind; give a checkpoint of MCG-NJU/DDT",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told(case, tmp_path):
    options, how, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        load_run(address(tmp_path, options, **how))


def test_weights_that_are_not_there_are_told(tmp_path):
    with pytest.raises(UserError, match="holds the ema weights alone"):
        load_run(address(tmp_path), "raw")
    path = tmp_path / "half.ckpt"
    torch.save({"state_dict": {"denoiser.x": torch.zeros(2)}}, path)
    with pytest.raises(UserError, match=r"holds no ema weights: nothing is named ema_denoiser\."):
        load_run(f"ddt:{path}")
