"""What is built for others installs and works without the source tree."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import denoisezoo
from denoisezoo.version import RECORD, git_commit

ROOT = Path(__file__).parents[1]
PYTHON = [sys.executable, "-I", "-m"]  # isolated: not the tree that the tests were started in


def run(words, folder):
    """What a program prints."""
    cores = {"OMP_NUM_THREADS": "1"}
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | cores
    done = subprocess.run(list(map(str, words)), cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The source distribution, and the wheel made from it in its turn."""
    folder = tmp_path_factory.mktemp("dist")
    run([*PYTHON, "hatchling", "build", "-t", "sdist", "-d", folder], ROOT)
    (source,) = folder.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    run([*PYTHON, "hatchling", "build", "-t", "wheel", "-d", folder], folder / source.name.removesuffix(".tar.gz"))
    (wheel,) = folder.glob("*.whl")
    return source, wheel


def test_their_descriptions_are_what_an_index_takes(distributions):
    run([*PYTHON, "twine", "check", "--strict", *distributions], ROOT)


def test_they_hold_the_package_and_its_commit(distributions):
    source, wheel = distributions
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if name.startswith("denoisezoo/")}
    files = {path for path in (ROOT / "denoisezoo").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    files.discard(ROOT / "denoisezoo" / RECORD)  # of a source distribution
    commit = packed.pop(f"denoisezoo/{RECORD}", b"").decode().strip() or None
    assert packed == {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in files}
    assert "denoisezoo/py.typed" in packed
    assert commit == git_commit.__wrapped__()
    tree = source.parent / source.name.removesuffix(".tar.gz")
    for name in ("tests/conftest.py", "docs/index.md", "results/digits_cpu.csv", "mkdocs.yml", ".ci/run", "Makefile"):
        assert (tree / name).read_bytes() == (ROOT / name).read_bytes()


COMMANDS = [
    ["list", "ddpm*"],
    ["profile", "ddpm_cifar10", "--counts-only", "--json", "profile.json"],
    ["train", "--config", "digits/ddpm", "--trainer.max_steps", "3", "--trainer.accelerator", "cpu",
     "--trainer.limit_val_batches", "0", "--data.init_args.batch_size", "4"],
    ["sample", "runs/digits/ddpm", "--num", "1", "--steps", "2", "--device", "cpu"],
    ["claims", "ddsm/*"],
]  # fmt: skip


@pytest.mark.slow
def test_the_wheel_works_where_the_source_is_not(distributions, tmp_path):
    """Its dependencies are those of this environment, seen through a path file: to install them takes gigabytes."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check"]
    run([*PYTHON, "pip", "--python", python, "install", *options, distributions[1]], tmp_path)
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], tmp_path).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # not its own path files: not our source
    shown = run([python.with_name("denoisezoo"), "--version"], tmp_path)
    assert shown.startswith(f"denoisezoo {denoisezoo.__version__}")
    program = f"""
import denoisezoo
from denoisezoo.cli import main
assert denoisezoo.__file__.startswith({str(site)!r}), denoisezoo.__file__
for words in {COMMANDS!r}:
    assert main(words) == 0, words
"""
    out = run([python, "-c", program], tmp_path)
    assert "ddpm_cifar10" in out
    assert re.search(r"trained 3 steps, \S+ images, loss \d", out)
    assert list(tmp_path.glob("runs/digits/ddpm/samples/*/*.png"))
    assert "ddsm/half_the_compute" in out
