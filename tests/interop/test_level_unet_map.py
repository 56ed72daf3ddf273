"""Weights of DiCo, U-DiT, DiC and FCDM: outputs equal those of their own code."""

import pytest
import torch

from denoisezoo.cli import main
from denoisezoo.diffusion import Given
from denoisezoo.errors import UserError
from denoisezoo.runs.run import load_run
from tests.interop.written import eight, image, write_transformer

# Each with the weights of `filled`, for the images of `image`, steps 3 and 870, and labels 0 and none:
# shallowdream204/DiCo b596b05, dico_models.py: DiCo(3, 8, [1, 2, 1, 1, 2], 2, num_classes=3);
# YuchuanTian/U-DiT 7fcce5e, udit_models.py: U_DiT(8, 2, 3, 8, [1, 1, 1, 1, 1], 2, 2, num_classes=3, ...), the rest as
# U-DiT-S has it, and in training mode, but for labels;
# YuchuanTian/DiC bfa541b, dic_models.py: DiC_default(8, 3, 8, [4, 1, 1, 1, 4], num_classes=3);
# star-kwon/FCDM 0ec590f, fcdm_models.py: FCDM(3, 8, [1, 2, 1, 2, 1], 3, num_classes=3).
THEIRS = {
    "dico": [-0.333055, -0.603353, -0.684119, -0.586625, -0.961224, -0.703207, -0.849864, 1.202436],
    "udit": [-0.725124, 0.844753, -1.598404, -0.088257, 0.316523, -1.133831, 0.30894, -0.4155],
    "dic": [0.556784, -0.058146, -0.389683, -0.969292, 0.738826, -0.87433, -2.802057, -0.179752],
    "fcdm": [0.561991, 1.160006, -0.057135, -0.494733, -0.538267, -0.289483, -0.128237, -0.043972],
}
SIZES = {
    "dico": {"depths": (1, 2, 1, 1, 2), "multipliers": (1, 2, 4, 2, 2), "expansion": 2},
    "udit": {"depths": (1, 1, 1, 1, 1), "multipliers": (1, 2, 4, 2, 2), "num_heads": 2, "expansion": 2},
    "dic": {"depths": (4, 1, 1, 1, 4), "multipliers": (1, 2, 4, 2, 1), "skip_stride": 3},
    "fcdm": {"depths": (1, 2, 1, 2, 1), "multipliers": (1, 2, 4, 2, 1), "expansion": 3, "kernel": 7},
}


def address(name, tmp_path, **how):
    return f"{name},resolution=8:{write_transformer(tmp_path / f'{name}.pt', name, **how)}"


def output(run):
    with torch.no_grad():
        given = Given(label=torch.tensor([0, -1]))
        return eight(run.denoiser.backbone(image(2, 3, 8, 8), torch.tensor([3.0, 870.0]), given))


@pytest.mark.parametrize("name", SIZES)
def test_outputs_are_those_of_their_code(name, tmp_path):
    run = load_run(address(name, tmp_path))
    torch.testing.assert_close(output(run), torch.tensor(THEIRS[name]), rtol=0, atol=1e-5)
    config = run.denoiser.backbone.config
    assert {key: getattr(config, key) for key in SIZES[name]} == SIZES[name]
    assert (config.in_channels, config.out_channels, config.num_classes) == (3, 6, 3)
    assert run.sampling() == {"sampler": "ddpm:variance=learned", "steps": 250}


def test_a_training_checkpoint_holds_both_sets(tmp_path):
    path = address("dico", tmp_path, training=True)
    torch.testing.assert_close(output(load_run(path)), torch.tensor(THEIRS["dico"]), rtol=0, atol=1e-5)
    assert (output(load_run(path, "raw")) - torch.tensor(THEIRS["dico"])).abs().max() > 0.1


def flow(weights):
    """The head of a network without a variance."""
    for kind in ("weight", "bias"):
        weights[f"final_layer.conv.{kind}"] = weights[f"final_layer.conv.{kind}"][:3]


WRONG = {
    "a missing tensor": ("dico", lambda w: w.pop("latent.0.ca.1.bias"), "latent.0.ca.1.bias is missing"),
    "a missing modulation": (
        "udit",
        lambda w: w.pop("latent.0.adaLN_modulation2.1.bias"),
        "latent.0.adaLN_modulation2.1.bias is missing",
    ),
    "one too many": ("fcdm", lambda w: w.update(norm=torch.zeros(3)), "norm 3 is unknown"),
    "another shape": (
        "dic",
        lambda w: w.update({"dec_blocks.1.3.conv.skip.weight": torch.zeros(8, 16, 3, 3)}),
        "dec_blocks.1.3.conv.skip.weight is 8x16x3x3 and should give 8x16x1x1",
    ),
    "no skip": (
        "dic",
        lambda w: w.pop("dec_blocks.0.0.conv.skip.weight"),
        "has a decoder whose first block takes no skip: dec_blocks.0.0",
    ),
    "another network": (
        "dic",
        lambda w: w.clear() or w.update(x=torch.zeros(3)),
        "is no network of this kind: t_embedder_ls.1.mlp.0.weight is missing",
    ),
    "feed-forward layers that were merged": (
        "udit",
        lambda w: w.pop("latent.0.mlp1.project_in.0.weight"),
        "latent.0.mlp1.project_in.0.weight is missing or of another kind; give .* YuchuanTian/U-DiT",
    ),
    "a width that is no multiple": (
        "dico",
        lambda w: w.update({"latent.0.conv3.weight": torch.zeros(30, 30, 1, 1)}),
        "should give",
    ),
    "levels of one width": (
        "dico",
        lambda w: w.update({"latent.0.conv3.weight": torch.zeros(16, 16, 1, 1)}),
        "has levels of 8, 16, 16 channels; only networks whose levels differ",
    ),
    "flow matching": ("fcdm", flow, "puts out no variance, as its flow-matching script trains, unknown here"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told(case, tmp_path):
    name, change, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        load_run(address(name, tmp_path, change=change))


def test_a_size_that_cannot_be_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write_transformer(tmp_path / "DiCo.pt", "dico")
    assert main(["sample", f"dico,resolution=10:{path}", "--num", "1", "--steps", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert [file.name for file in tmp_path.iterdir()] == ["DiCo.pt"]
