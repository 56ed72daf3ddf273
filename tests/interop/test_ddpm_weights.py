"""DDPM's converted weights: outputs equal those of pytorch_diffusion, and lists of ddim hold two sets."""

import pytest
import torch

from denoisezoo.cli import main
from denoisezoo.errors import UserError
from denoisezoo.runs.run import load_run
from tests.interop.written import eight, filled, image, layout

# pesser/pytorch_diffusion 304bdff, pytorch_diffusion/model.py: outputs for the images of `image` and steps 3 and 870.
THEIRS = [-0.004013, -0.296459, -0.05873, -0.180088, -0.185009, -0.843246, -0.469323, 0.4335]


def write(path, change=lambda weights: None):
    weights = filled(layout("ddpm_weights")[0])
    change(weights)
    torch.save(weights, path)
    return path


def output(run):
    with torch.no_grad():
        return eight(run.denoiser.backbone(image(2, 3, 32, 32), torch.tensor([3.0, 870.0])))


def test_outputs_are_those_of_pytorch_diffusion(tmp_path):
    run = load_run(f"ddpm:{write(tmp_path / 'model-790000.ckpt')}")
    torch.testing.assert_close(output(run), torch.tensor(THEIRS), rtol=0, atol=1e-5)
    assert run.sampling() == {"sampler": "ddpm:variance=large", "steps": 1000}


def test_a_list_of_ddim_holds_both_sets(tmp_path):
    average = filled(layout("ddpm_weights")[0])
    model = {f"module.{name}": value + 0.25 for name, value in average.items()}
    path = tmp_path / "ckpt.pth"
    torch.save([model, {}, 3, 9, average], path)
    torch.testing.assert_close(output(load_run(f"ddpm:{path}")), torch.tensor(THEIRS), rtol=0, atol=1e-5)
    assert (output(load_run(f"ddpm:{path}", "raw")) - torch.tensor(THEIRS)).abs().max() > 0.1


WRONG = {
    "a missing tensor": (lambda w: w.pop("up.1.upsample.conv.bias"), "up.1.upsample.conv.bias is missing"),
    "one too many": (lambda w: w.update(up=torch.zeros(3)), "up 3 is unknown"),
    "another shape": (lambda w: w.update({"conv_in.bias": torch.zeros(3)}), "conv_in.bias is 3 and should give 32"),
    "another network": (
        lambda w: w.clear() or w.update(x=torch.zeros(3)),
        "is no network of this kind: conv_in",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told(case, tmp_path):
    change, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        load_run(f"ddpm:{write(tmp_path / 'model.ckpt', change)}")


def test_a_file_with_one_set_has_no_raw_weights(tmp_path):
    with pytest.raises(UserError, match="holds the ema weights alone"):
        load_run(f"ddpm:{write(tmp_path / 'model.ckpt')}", "raw")


def test_an_imported_network_samples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "model-790000.ckpt")
    assert main(["import", f"ddpm,variance=small:{path}", "--out", "runs/ddpm"]) == 0
    assert main(["sample", "runs/ddpm", "--num", "1", "--steps", "2"]) == 0
    assert (tmp_path / "runs/ddpm/samples/ddpm_variance=small_2/grid.png").is_file()
