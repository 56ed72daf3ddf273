"""Weights of DiT: outputs equal those of its own code, alone or in a training checkpoint."""

import pytest
import torch

from denoisezoo.cli import main
from denoisezoo.diffusion import Given
from denoisezoo.errors import UserError
from denoisezoo.runs.run import load_run
from tests.interop.written import eight, filled, image, layout, of_latents, write_transformer

# facebookresearch/DiT ed81ce2, models.py: DiT(8, 4, 3, 32, 2, 2, num_classes=3) with the weights of `filled`, for the
# images of `image`, steps 3 and 870, and labels 0 and none.
THEIRS = [-0.001122, 0.337036, -0.261367, -0.4389, 0.50152, 1.202633, 2.197145, -2.49729]


def output(run):
    with torch.no_grad():
        label = torch.tensor([0, -1])
        return eight(run.denoiser.backbone(image(2, 3, 8, 8), torch.tensor([3.0, 870.0]), Given(label=label)))


def test_outputs_are_those_of_dit(tmp_path):
    run = load_run(f"dit,num_heads=2:{write_transformer(tmp_path / 'DiT.pt')}")
    torch.testing.assert_close(output(run), torch.tensor(THEIRS), rtol=0, atol=1e-5)
    assert run.sampling() == {"sampler": "ddpm:variance=learned", "steps": 250}
    config = run.denoiser.backbone.config
    assert (config.resolution, config.out_channels, config.num_classes, config.depth) == (8, 6, 3, 2)


def test_a_training_checkpoint_holds_both_sets_and_arguments_that_are_not_run(tmp_path):
    path = write_transformer(tmp_path / "0400000.pt", training=True)
    run = load_run(f"dit,num_heads=2:{path}")
    torch.testing.assert_close(output(run), torch.tensor(THEIRS), rtol=0, atol=1e-5)
    assert (output(load_run(f"dit,num_heads=2:{path}", "raw")) - torch.tensor(THEIRS)).abs().max() > 0.1


def test_heads_and_latents_of_the_published_sizes_are_known(tmp_path):
    from denoisezoo.interop.transformer_map import Shapes, dit_network

    weights = {name: torch.empty(1).expand(shape) for name, shape in layout("dit")[0].items()}
    wide = {"x_embedder.proj.weight": (1152, 4, 2, 2), "pos_embed": (1, 256, 1152)}
    weights |= {name: torch.empty(1).expand(shape) for name, shape in wide.items()}
    network = dit_network(Shapes(tmp_path, weights, ""), None, "dit")
    assert (network["heads"], network["resolution"], network["in_channels"]) == (16, 32, 4)


WRONG = {
    "a missing tensor": (lambda w: w.pop("blocks.1.attn.proj.bias"), "blocks.1.attn.proj.bias is missing"),
    "one too many": (lambda w: w.update(norm=torch.zeros(3)), "norm 3 is unknown"),
    "another shape": (
        lambda w: w.update({"blocks.0.attn.qkv.weight": torch.zeros(96, 31)}),
        "blocks.0.attn.qkv.weight is 96x31 and should give 96x32",
    ),
    "another network": (
        lambda w: w.clear() or w.update(x=torch.zeros(3)),
        "is no network of this kind: x_embedder.proj.weight is missing or of another kind; give a state dictionary or",
    ),
    "tokens": (
        lambda w: w.update(pos_embed=torch.zeros(1, 5, 32)),
        "has positions for 5 tokens, which make no square",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told(case, tmp_path):
    change, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        load_run(f"dit,num_heads=2:{write_transformer(tmp_path / 'DiT.pt', change=change)}")


def test_what_the_file_does_not_tell_is_asked_for(tmp_path, capsys):
    path = write_transformer(tmp_path / "DiT.pt")
    assert main(["sample", f"dit:{path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("a width of 32 is new; give them, e.g. dit,num_heads=1:PATH")
    with pytest.raises(UserError, match="holds the ema weights alone"):
        load_run(f"dit,num_heads=2:{path}", "raw")
    torch.save({"model": filled(layout("dit")[0])}, path)
    with pytest.raises(UserError, match="holds no 'ema'"):
        load_run(f"dit,num_heads=2:{path}")


def test_a_network_of_latents_is_priced_and_makes_latents(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    address = f"dit,num_heads=2:{write_transformer(tmp_path / 'DiT.pt', change=of_latents)}"
    run = load_run(address)
    assert run.config["source"]["latents"]["scale"] == [0.18215] * 4
    assert run.denoiser.sample(1, steps=2, progress=False).images.shape == (1, 4, 8, 8)
    assert main(["profile", address, "--counts-only", "--sampler", "ddpm:variance=learned", "--steps", "2"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "warning: dit_DiT makes latents of 4 channels, which no codec of it decodes, and its price has"
    )
    places = [["--data.path", str(tmp_path)], ["--reference", str(tmp_path)]]
    for words in (["sample"], *(["evaluate", *place] for place in places)):
        assert main([words[0], address, *words[1:], "--num", "4", "--steps", "2"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "makes latents of 4 channels, which no codec of it decodes; " in line
        assert "`denoisezoo import FORMAT:PATH --codec autoencoder_kl:path=FOLDER`" in line
    assert [file.name for file in tmp_path.iterdir()] == ["DiT.pt"]


def test_a_label_that_there_is_not_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write_transformer(tmp_path / "DiT.pt")
    assert main(["sample", f"dit,num_heads=2:{path}", "--num", "1", "--steps", "2", "--label", "3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert [file.name for file in tmp_path.iterdir()] == ["DiT.pt"]
