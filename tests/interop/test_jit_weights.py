"""Weights of JiT: images that it predicts are those of its own code, whose time runs the other way."""

import pytest
import torch

from denoisezoo.cli import main
from denoisezoo.diffusion import Given
from denoisezoo.errors import UserError
from denoisezoo.runs.run import load_run
from tests.interop.written import eight, image, write_transformer

# LTH14/JiT, model_jit.py (as undefined443/JiT 7f1fa28 has it): JiT(8, 4, 3, 32, 2, 2, num_classes=3, bottleneck_dim=8,
# in_context_len=2, in_context_start=1) with the weights of `filled`, for the images of `image`, its times 0.997 and
# 0.13, and labels 0 and none.
THEIRS = [0.212006, -1.015642, 0.483416, 1.357715, 0.782545, -0.778143, 0.165572, 1.057671]


def address(tmp_path, options="num_heads=2,in_context_start=1", **how):
    return f"jit,{options}:{write_transformer(tmp_path / 'checkpoint-last.pth', 'jit', **how)}"


def output(run):
    with torch.no_grad():
        given = Given(label=torch.tensor([0, -1]))
        return eight(run.denoiser.backbone(image(2, 3, 8, 8), 999 * torch.tensor([0.003, 0.87]), given))


def test_images_are_those_of_jit(tmp_path):
    run = load_run(address(tmp_path))
    torch.testing.assert_close(output(run), torch.tensor(THEIRS), rtol=0, atol=1e-5)
    assert run.sampling() == {"sampler": "heun", "steps": 50}
    config = run.denoiser.backbone.config
    assert (config.bottleneck, config.class_tokens, config.resolution) == (8, 2, 8)


def test_its_velocity_is_minus_ours(tmp_path):
    """v = (x - z) / (1 - t) of its denoiser.py, at a time where it divides by what it should."""
    run = load_run(address(tmp_path))
    z, given = image(2, 3, 8, 8).double(), Given(torch.tensor([1, 2]))
    t = torch.tensor([0.4, 0.87], dtype=torch.float64)
    with torch.no_grad():
        x = run.denoiser.backbone(z.float(), 999 * t.float(), given).double()
        v = run.denoiser.velocity(z, t, given)
    torch.testing.assert_close(-v, (x - z) / t[:, None, None, None], rtol=0, atol=1e-5)


def test_a_training_checkpoint_holds_three_sets(tmp_path):
    how = {"options": "num_heads=2,in_context_start=1", "training": True}
    first = load_run(address(tmp_path, **how))
    torch.testing.assert_close(output(first), torch.tensor(THEIRS), rtol=0, atol=1e-5)
    raw, second = (
        load_run(address(tmp_path, **how), "raw"),
        load_run(address(tmp_path, f"{how['options']},average=2", training=True)),
    )
    place = "blocks.0.attention.out.bias"
    values = [run.denoiser.backbone.state_dict()[place] for run in (first, raw, second)]
    torch.testing.assert_close(values[1] - values[0], torch.full((32,), 0.25))
    torch.testing.assert_close(values[2] - values[0], torch.full((32,), -0.25))


def test_the_noise_of_large_images_has_twice_the_deviation(tmp_path):
    run = load_run(address(tmp_path, "num_heads=2,in_context_start=1,noise_scale=2"))
    process = run.denoiser.process
    assert process.sigma(torch.tensor(1.0)) == 2
    t = torch.tensor([0.1, 0.6], dtype=torch.float64)
    torch.testing.assert_close(process.t_of_sigma(process.edm_sigma(t)), t)
    start = process.prior((64, 3, 8, 8), torch.Generator().manual_seed(0))
    assert start.std().item() == pytest.approx(2, rel=0.02)

    from denoisezoo.interop.jit_weights import NOISE

    assert NOISE[512] == 2


def test_what_the_file_does_not_tell_is_asked_for(tmp_path, capsys):
    assert main(["sample", address(tmp_path, "num_heads=2")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not tell which of its 2 blocks sees class tokens first; give it, e.g. jit,in_context_start=4" in line
    with pytest.raises(UserError, match="class_start is 9; give 0 to 1"):
        load_run(address(tmp_path, "num_heads=2,in_context_start=9"))
    with pytest.raises(UserError, match="unknown average of format jit '3'"):
        load_run(address(tmp_path, "average=3"))
    with pytest.raises(UserError, match=r"blocks\.1\.mlp\.w12.bias is missing"):
        load_run(address(tmp_path, change=lambda w: w.pop("blocks.1.mlp.w12.bias")))
