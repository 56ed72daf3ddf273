"""DDSM's supernet: outputs at several widths equal those of its own code."""

import pytest
import torch

from denoisezoo.cli import main
from denoisezoo.errors import UserError
from denoisezoo.runs.run import load_run
from tests.interop.written import eight, filled, image, layout

# EnVision-Research/DDSM, slimmable_model.py, SlimmableUNet with 64 channels: outputs for the images of `image` and
# steps 3 and 870 at two widths.
THEIRS = {
    0.5: [0.095673, 0.011638, -0.025786, 0.273467, 0.107666, -0.497055, -0.167106, 0.258648],
    1.0: [0.509354, 0.205498, -0.469282, 1.065129, 1.198696, 0.431274, 0.096149, 0.167034],
}
TABLE = "time_embedding.timembedding.0.weight"


def sinusoids(steps, width):
    frequencies = torch.exp(-torch.arange(0, width, 2) / width * torch.tensor(10000.0).log())
    angles = torch.arange(steps)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).view(steps, width)


def write(path, change=lambda weights: None):
    weights = filled(layout("ddsm")[0]) | {TABLE: sinusoids(1000, 64)}
    change(weights)
    raw = {f"module.{name}": value + 0.1 for name, value in weights.items() if name != TABLE}
    saved = {"net_model": raw | {TABLE: weights.get(TABLE)}, "ema_model": weights, "step": 9}
    torch.save(saved | {"sched": {}, "optim": {}, "x_T": torch.zeros(1)}, path)
    return path


def test_outputs_at_each_width_are_those_of_ddsm(tmp_path):
    run = load_run(f"ddsm,widths=0.5+1:{write(tmp_path / 'ckpt.pt')}")
    net = run.denoiser.backbone
    assert net.efforts == (0.5, 1.0)
    for width, theirs in THEIRS.items():
        with torch.no_grad():
            y = net(image(2, 3, 32, 32), torch.tensor([3.0, 870.0]), effort=width)
        torch.testing.assert_close(eight(y), torch.tensor(theirs), rtol=0, atol=1e-5)
    assert run.sampling() == {"sampler": "ddpm:variance=large", "steps": 1000}


def test_a_network_that_is_not_slimmable_is_read_too(tmp_path):
    run = load_run(f"ddsm,widths=1:{write(tmp_path / 'ckpt.pt')}")
    with torch.no_grad():
        y = run.denoiser.backbone(image(2, 3, 32, 32), torch.tensor([3.0, 870.0]))
    torch.testing.assert_close(eight(y), torch.tensor(THEIRS[1.0]), rtol=0, atol=1e-5)


WRONG = {
    "widths": ("ddsm,widths=half", lambda w: None, "widths is 'half'; give shares joined by"),
    "one that is no share": ("ddsm,widths=-3", lambda w: None, "give increasing shares that end at 1"),
    "order": ("ddsm,widths=1+0.5", lambda w: None, "give increasing shares that end at 1"),
    "table": ("ddsm", lambda w: w[TABLE].neg_(), "is not the table of sinusoids"),
    "no table": ("ddsm", lambda w: w.pop(TABLE), f"{TABLE} is missing"),
    "missing": ("ddsm", lambda w: w.pop("tail.2.bias"), "tail.2.bias is missing"),
    "more": ("ddsm", lambda w: w.update(more=torch.zeros(2)), "more 2 is unknown"),
    "another": ("ddsm", lambda w: w.pop("head.weight"), "is no network of this kind: head.weight"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told(case, tmp_path):
    format, change, message = WRONG[case]
    path = tmp_path / "ckpt.pt"
    weights = filled(layout("ddsm")[0]) | {TABLE: sinusoids(1000, 64)}
    change(weights)
    torch.save({"ema_model": weights}, path)
    with pytest.raises(UserError, match=message):
        load_run(f"{format}:{path}")


def test_an_imported_supernet_samples_by_a_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "ckpt.pt")
    assert main(["import", f"ddsm,widths=0.5+1:{path}", "--out", "runs/ddsm"]) == 0
    assert main(["sample", "runs/ddsm", "--num", "1", "--steps", "2", "--plan", "uniform:effort=0.5"]) == 0


def test_search_is_told_where_the_data_are(tmp_path, monkeypatch):
    """The search itself takes half a minute at 32x32, and is tested with the small networks."""
    from PIL import Image

    asked = []

    def search(run, settings, options, out):
        data = run.data()
        asked.append((data.resolution, data.channels, settings.sampler, settings.steps))
        raise UserError("far enough", "stop")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("denoisezoo.search.search.search", search)
    path = write(tmp_path / "ckpt.pt")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "photos" / "0.png")
    assert main(["search", f"ddsm,widths=0.5+1:{path}", "--budget", "0.6", "--data.path", "photos"]) == 2
    assert asked == [(32, 3, "ddpm:variance=large", 1000)]
