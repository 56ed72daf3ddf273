"""The commands of docs/interop.md, on files that are written here, and the addresses of runs."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

import denoisezoo as dz
from denoisezoo.cli import main
from denoisezoo.errors import UserError
from denoisezoo.interop import FORMATS, find_address
from tests.interop import test_ddpm_weights, test_ddsm_supernet, test_guided_diffusion, test_missing_u_checkpoint
from tests.interop import test_score_sde as score_sde
from tests.interop.written import write_snapshot

PAGE = (Path(__file__).parents[2] / "docs" / "interop.md").read_text()
COMMANDS = [line.strip() for line in PAGE.splitlines() if line.startswith("    denoisezoo ")]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A file of each format, under the names of the page."""
    from tests.interop.test_diffusers_folder import pipeline

    monkeypatch.chdir(tmp_path)
    write_snapshot(tmp_path / "network-snapshot.pkl", "edm_ddpmpp", monkeypatch)
    test_guided_diffusion.write(tmp_path / "model.pt", "guided_legacy")
    pipeline(tmp_path / "pipeline").save_pretrained(tmp_path / "network")
    score_sde.write(tmp_path / "checkpoint_8.pth", "ncsnpp")
    test_ddpm_weights.write(tmp_path / "model-790000.ckpt")
    test_ddsm_supernet.write(tmp_path / "ckpt.pt")
    test_missing_u_checkpoint.write(tmp_path / "model-9.pt")
    (tmp_path / "photos").mkdir()
    for i in range(8):
        Image.new("RGB", (8, 8), (30 * i, 40, 90)).save(tmp_path / "photos" / f"{i}.png")


def test_the_commands_of_the_page_work(files, tmp_path, capsys):
    shown = {name for name in FORMATS if any(re.search(rf" {name}[,:]", command) for command in COMMANDS)}
    assert shown == {*FORMATS}
    for command in COMMANDS:
        assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    assert dz.load("edm.safetensors").run.config["source"]["format"] == "edm"


def test_the_page_names_every_format_and_option():
    for name, cls in FORMATS.items():
        assert f"| `{name}` |" in PAGE
        for option in dataclasses.fields(cls):
            assert f"`{option.name}`" in PAGE, (name, option.name)


ADDRESSES = {
    "edm:a.pkl": ("edm", "a.pkl"),
    "edm:/a/b:c,d=e.pkl": ("edm", "/a/b:c,d=e.pkl"),
    "guided,num_heads=4,image_size=64:C:/a.pt": ("guided", "C:/a.pt"),
    "runs/a:b": None,
    "C:a.pt": None,
    "C:/a.pt": None,
    "s3://bucket/a": None,
    "https://host/a": None,
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_is_told_from_a_path(text):
    found = find_address(text)
    assert (None if found is None else (found[0].name, str(found[1]))) == ADDRESSES[text]


def test_a_file_that_exists_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("edm:x.pkl").write_text("")
    assert find_address("edm:x.pkl") is None


@pytest.mark.parametrize(
    "words", [["sample"], ["evaluate"], ["profile"], ["search", "--budget", "0.5"], ["export"], ["import"]]
)
def test_a_wrong_prefix_is_told_by_every_command(words, capsys):
    assert main([words[0], "edn:network.pkl", *words[1:]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: unknown format 'edn'; did you mean edm")


def test_python_loads_and_judges_a_foreign_checkpoint(files):
    denoiser = dz.load("edm:network-snapshot.pkl")
    assert denoiser.sample(1, steps=2, given=dz.Given(label=torch.tensor([1])), progress=False).images.shape == (
        1,
        3,
        8,
        8,
    )
    data = dz.data.ImageFolder("photos", resolution=8, batch_size=1)
    result = dz.evaluate("edm:network-snapshot.pkl", data, num=8, steps=2, progress=False)
    assert result.card.sampler == "edm"
    with pytest.raises(UserError, match="unknown format 'edn'"):
        dz.load("edn:network.pkl")


def test_a_format_of_a_plugin_is_a_format(tmp_path):
    from denoisezoo.interop import Format

    @dataclasses.dataclass(frozen=True)
    class Theirs(Format):
        share: float = 0.5

        def read(self, path, weights):
            raise LookupError("no such thing")

    name = "format_of_a_test"
    FORMATS.add(name, Theirs)
    try:
        reader, path = find_address(f"{name},share=0.25:x")
        assert (reader.share, reader.stated()) == (0.25, {"share": 0.25})
        with pytest.raises(UserError, match="is damaged, or of another layout than format format_of_a_test knows"):
            reader.load(path, "ema")
    finally:
        del FORMATS._items[name]
