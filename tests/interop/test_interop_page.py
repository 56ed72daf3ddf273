"""The commands of docs/interop.md, on files that are written here, and the addresses of runs."""

import dataclasses
import json
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
from denoisezoo.runs.run import load_run
from tests.diffusion.autoencoder_folders import write_autoencoder
from tests.interop import test_ddpm_weights, test_ddsm_supernet, test_guided_diffusion, test_missing_u_checkpoint
from tests.interop import test_msdiff_checkpoint as msdiff
from tests.interop import test_score_sde as score_sde
from tests.interop.written import of_latents, write_edm2_snapshot, write_snapshot, write_transformer

PAGE = (Path(__file__).parents[2] / "docs" / "interop.md").read_text()
COMMANDS = [line.strip() for line in PAGE.splitlines() if line.startswith("    denoisezoo ")]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a file of each format, under the names of the page."""
    from tests.interop.test_diffusers_folder import pipeline

    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as monkeypatch:
        write_snapshot(folder / "network-snapshot.pkl", "edm_ddpmpp", monkeypatch)
        write_edm2_snapshot(folder / "edm2.pkl", monkeypatch)
        msdiff.write(folder / "last.ckpt", monkeypatch)
    test_guided_diffusion.write(folder / "model.pt", "guided_legacy")
    pipeline(folder / "pipeline").save_pretrained(folder / "network")
    score_sde.write(folder / "checkpoint_8.pth", "ncsnpp")
    test_ddpm_weights.write(folder / "model-790000.ckpt")
    test_ddsm_supernet.write(folder / "ckpt.pt")
    test_missing_u_checkpoint.write(folder / "model-9.pt")
    write_transformer(folder / "DiT.pt", training=True)
    write_transformer(folder / "SiT.pt")
    write_transformer(folder / "nnet_ema.pth", "uvit")
    write_transformer(folder / "lightningdit.pt", "lightningdit")
    write_transformer(folder / "checkpoint-last.pth", "jit", training=True)
    write_transformer(folder / "ddt.ckpt", "ddt", training=True)
    for name in ("DiCo", "U-DiT", "DiC", "FCDM"):
        write_transformer(folder / f"{name}.pt", name.replace("-", "").lower())
    write_transformer(folder / "DiT-latents.pt", change=of_latents)
    write_autoencoder(folder / "sd-vae-ft-ema", "autoencoder_kl")
    for name, size in {"photos": 8, "photos16": 16, "photos32": 32, "photos64": 64}.items():
        (folder / name).mkdir()
        for i in range(8):
            Image.new("RGB", (size, size), (30 * i, 40, 90)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def files(written, monkeypatch):
    """Work where these files are."""
    monkeypatch.chdir(written)


def test_the_commands_of_the_page_work(files, capsys):
    shown = {name for name in FORMATS if any(re.search(rf" {name}[,:]", command) for command in COMMANDS)}
    assert shown == {*FORMATS}
    for command in COMMANDS:
        assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    assert dz.load("edm.safetensors").run.config["source"]["format"] == "edm"
    assert dz.load("runs/dit").image_shape == (3, 16, 16)  # of latents of 8x8


def test_images_of_another_size_are_resized_where_asked(files, capsys):
    words = ["evaluate", "edm:network-snapshot.pkl", "--num", "4", "--steps", "1", "--data.path", "photos64"]
    assert main(words) == 2
    assert "give --data.resize true to cut and resize them" in capsys.readouterr().err
    assert main([*words, "--data.resize", "true", "--json", "resized.json"]) == 0
    assert json.loads(Path("resized.json").read_text())[0]["num_reference"] == 8
    assert main([*words[:1], "runs/none", *words[2:]]) == 2
    assert "FORMAT:PATH for a checkpoint of other code" in capsys.readouterr().err


def address_of(name):
    """The first address of a format on the page, of a network of pixels."""
    commands = [command for command in COMMANDS if "--codec" not in command]
    return next(word for command in commands for word in command.split() if re.match(rf"{name}[,:]", word))


@pytest.mark.parametrize("name", [*FORMATS, "edm2"])
def test_a_run_of_each_format_goes_through_the_commands_of_the_page(name, files, capsys):
    address = "edm:edm2.pkl" if name == "edm2" else address_of(name)
    through = [c for c in COMMANDS if "runs/edm" in c and "export" not in c and "--reference" not in c]
    assert [command.split()[1] for command in through] == ["import", "sample", "evaluate", "profile"]
    sizes = {"ddpm": 32, "ddsm": 32, "missing_u": 64, "score_sde": 32}  # others have 8 pixels
    for command in through:
        own = command.replace("edm:network-snapshot.pkl", address).replace("runs/edm", f"runs/own_{name}")
        if name in sizes:
            own = own.replace("photos", f"photos{sizes[name]} --features pixels16")
        own = own.replace("--num 4", "--num 1").replace("--num 8", "--num 4")
        own = re.sub(r"--steps \d+", "--steps 2", own)
        if "--sampler" in own:  # the one that is customary for the format
            own = re.sub(r"--sampler \S+", f"--sampler {load_run(f'runs/own_{name}').sampling()['sampler']}", own)
        assert main(shlex.split(own)[1:]) == 0, capsys.readouterr().err


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
