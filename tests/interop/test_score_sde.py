"""Checkpoints of score_sde: the noise that it predicts equals that of its own code, for averaged and raw weights."""

import math

import pytest
import torch

from denoisezoo.cli import main
from denoisezoo.errors import UserError
from denoisezoo.runs.run import load_run
from tests.interop.written import LAYOUTS, eight, filled, image, layout

# yang-song/score_sde_pytorch cb1f359, models/ncsnpp.py, in float32 on a CPU. NCSN++: -score times the noise level for
# images (x + 1)/2 with x of `image` and noise levels 0.5 and 2; DDPM++: the output for x and labels 3 and 870.
THEIRS = {
    "ncsnpp": [-0.125058, 0.137538, 0.88323, 0.759156, 0.234099, 0.183228, -0.212496, 0.04059],
    "ddpmpp": [-0.039246, -0.25849, 0.040301, 0.649116, 0.612025, 0.653829, 0.166688, 0.16221],
}


def checkpoint(name):
    """What training saves; the raw weights are not the averaged ones, but for what is not trained."""
    trained, buffers = layout(f"score_sde_{name}")
    average = filled(trained)
    fixed = {}
    for key, shape in buffers.items():
        k = torch.arange(math.prod(shape), dtype=torch.float64)
        fixed[key] = torch.sin(k.square() / 7).float()
    names = [line.split()[0] for line in (LAYOUTS / f"score_sde_{name}.txt").read_text().splitlines()]
    model = {key: fixed[key] if key in fixed else average[key] + 0.5 for key in names}
    return {
        "optimizer": {},
        "model": {f"module.{key}": value for key, value in model.items()},
        "ema": {"decay": 0.999, "num_updates": 7, "shadow_params": list(average.values())},
        "step": 7,
    }


def write(path, name, change=lambda found: None):
    found = checkpoint(name)
    change(found)
    torch.save(found, path)
    return path


@pytest.mark.parametrize("name", THEIRS)
def test_the_noise_is_that_of_score_sde(name, tmp_path):
    run = load_run(f"score_sde:{write(tmp_path / 'checkpoint_8.pth', name)}")
    denoiser, x = run.denoiser, image(2, 3, 32, 32).double()
    with torch.no_grad():
        if name == "ncsnpp":  # noise of images in [-1, 1] is twice that of images in [0, 1]
            eps = denoiser(x, torch.tensor([1.0, 4.0], dtype=torch.float64) ** 2).eps
        else:
            eps = denoiser(x, torch.tensor([3.0, 870.0], dtype=torch.float64) / 999).eps
    torch.testing.assert_close(eight(eps).float(), torch.tensor(THEIRS[name]), rtol=0, atol=2e-5)
    assert run.image_shape == (3, 32, 32)
    assert run.sampling()["sampler"] == ("pc:snr=0.16" if name == "ncsnpp" else "euler_maruyama")


def test_raw_weights_are_those_of_the_optimiser(tmp_path):
    path = write(tmp_path / "checkpoint_8.pth", "ddpmpp")
    ema, raw = (load_run(f"score_sde:{path}", weights).denoiser.backbone.stem.weight for weights in ("ema", "raw"))
    torch.testing.assert_close(raw, ema + 0.5)


def test_options_say_what_the_file_does_not(tmp_path):
    path = write(tmp_path / "checkpoint_8.pth", "ncsnpp")
    run = load_run(f"score_sde,sigma_max=90,image_size=64:{path}")
    assert (run.denoiser.process.sigma_min, run.denoiser.process.sigma_max) == (0.02, 180)
    assert run.denoiser.backbone.config.attention == (32,)
    assert main(["sample", f"score_sde,sigma_max=much:{path}"]) == 2


WRONG = {
    "no model": (lambda found: found.pop("model"), "holds no 'model'"),
    "no average": (lambda found: found.pop("ema"), "holds no averaged weights; give `weights=raw`"),
    "another average": (lambda found: found["ema"]["shadow_params"].pop(), "averages .* tensors, and its network has"),
    "an average in another order": (
        lambda found: found["ema"]["shadow_params"].reverse(),
        "is no NCSN",
    ),
    "a part too many": (lambda found: found["model"].update({"module.more": torch.zeros(2)}), "averages"),
    "no part": (
        lambda found: found.update(model={"x": torch.zeros(2)}, ema={"shadow_params": [torch.zeros(2)]}),
        "is no NCSN",
    ),
    "no weights": (lambda found: found.update(model=[torch.zeros(2)]), "holds no weights by name: 'model' is another"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told(case, tmp_path, capsys):
    change, message = WRONG[case]
    path = write(tmp_path / "checkpoint_8.pth", "ddpmpp", change)
    with pytest.raises(UserError, match=message):
        load_run(f"score_sde:{path}")


def test_an_imported_network_samples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "checkpoint_8.pth", "ncsnpp")
    assert main(["import", f"score_sde:{path}", "--out", "runs/ncsnpp"]) == 0
    assert main(["sample", "runs/ncsnpp", "--num", "1", "--steps", "2"]) == 0
    assert (tmp_path / "runs/ncsnpp/samples/pc_snr=0.16_2/grid.png").is_file()
