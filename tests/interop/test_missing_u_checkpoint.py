"""Checkpoints of The Missing U: outputs equal those of its own code, with and without the noise level."""

import pytest
import torch

from denoisezoo.cli import main
from denoisezoo.diffusion import VPDiscrete
from denoisezoo.errors import UserError
from denoisezoo.runs.run import load_run
from tests.interop.written import eight, filled, image, layout

# Sergio20f/cDDPM 45f656f, cUNet.py, ConvSODEUNet with 4 filters; "timed" has the projections of its noise embedding,
# which the released network leaves out. Outputs for the images of `image` and steps 3 and 870.
THEIRS = {
    "blind": [33.54813, 34.843018, 27.626812, -19.49645, -19.911734, -20.071499, 8.905373, 7.158283],
    "timed": [4.488907, -0.523827, 4.323393, 11.985892, 15.465628, 17.781786, 19.44911, 17.15719],
}


def sinusoids(steps, width):
    """The released table: its frequencies are 10000^(-4k/width)."""
    angles = torch.arange(steps)[:, None] * 10000 ** (-4 * torch.arange(width // 2) / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).view(steps, width)


def write(path, name="blind", change=lambda state: None, betas=None):
    weights = filled(layout(f"missing_u_{name}")[0]) | {"time_embed.weight": sinusoids(1000, 256)}
    state = {f"model.{key}": value for key, value in weights.items()}
    state["betas"] = (VPDiscrete("sigmoid").betas if betas is None else betas).float()
    state["alphas_cumprod"] = torch.ones(1000)
    change(state)
    average = {f"ema_model.{key}": value for key, value in state.items()}
    raw = {key: value + 0.1 if key.endswith("bias") else value for key, value in state.items()}
    torch.save({"step": 3, "model": raw, "ema": average | {"initted": torch.tensor([True])}, "version": "1.5.4"}, path)
    return path


@pytest.mark.parametrize("name", THEIRS)
def test_outputs_are_those_of_cddpm(name, tmp_path):
    run = load_run(f"missing_u:{write(tmp_path / 'model-9.pt', name)}")
    with torch.no_grad():
        y = eight(run.denoiser.backbone(image(2, 3, 64, 64), torch.tensor([3.0, 870.0])))
    theirs = torch.tensor(THEIRS[name])
    torch.testing.assert_close(y, theirs, rtol=1e-4, atol=1e-4 * theirs.std().item())
    assert run.denoiser.process.schedule == "sigmoid"
    assert run.sampling() == {"sampler": "ddpm", "steps": 1000}


def test_raw_weights_are_those_of_the_optimiser(tmp_path):
    path = write(tmp_path / "model-9.pt")
    ema, raw = (load_run(f"missing_u:{path}", weights).denoiser.backbone.head.bias for weights in ("ema", "raw"))
    torch.testing.assert_close(raw, ema + 0.1)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_betas_tell_the_schedule(schedule, tmp_path):
    path = write(tmp_path / "model-9.pt", betas=VPDiscrete(schedule).betas)
    run = load_run(f"missing_u,objective=pred_noise:{path}")
    assert run.denoiser.process.schedule == schedule
    assert type(run.denoiser.preconditioning).__name__ == "Epsilon"


WRONG = {
    "betas": (lambda s: s.update(betas=s["betas"] * 2), "are those of no known schedule"),
    "no betas": (lambda s: s.pop("betas"), "holds no betas"),
    "missing": (lambda s: s.pop("model.conv_up1_2.bias"), "conv_up1_2.bias is missing"),
    "more": (lambda s: s.update({"model.more": torch.zeros(2)}), "more 2 is unknown"),
    "another": (lambda s: s.pop("model.classifier.weight"), "is no network of this kind: classifier.weight"),
    "time as a channel": (
        lambda s: s.update({"model.odeblock_up1.odefunc.conv1.weight": torch.zeros(64, 65, 3, 3)}),
        "odeblock_up1.odefunc.conv1.weight is 64x65x3x3 and should give 64x64x3x3",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told(case, tmp_path):
    change, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        load_run(f"missing_u:{write(tmp_path / 'model-9.pt', change=change)}")


def test_an_imported_network_samples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "model-9.pt", "timed")
    assert main(["import", f"missing_u:{path}", "--out", "runs/cunet"]) == 0
    assert main(["sample", "runs/cunet", "--num", "1", "--steps", "2"]) == 0
    assert (tmp_path / "runs/cunet/samples/ddpm_2/grid.png").is_file()
