"""Code of other packages: recipes import it, runs remember it, and nobody runs it unasked."""

import gc
import sys

import pytest
import yaml

from denoisezoo.archs.variants import _VARIANTS
from denoisezoo.cli import main
from denoisezoo.compare.budget import Budget
from denoisezoo.compare.jobs import plan_jobs
from denoisezoo.errors import UserError
from denoisezoo.runs.run import load_run
from denoisezoo.train.checkpoint import AtomicCheckpointIO, read_checkpoint
from denoisezoo.train.fit import train
from denoisezoo.train.recipe import parse_recipe, plain_config
from tests.commands.test_wrong_numbers import refused

PACKAGE = "their_zoo"
MODULES = {
    "parts": """
from denoisezoo.data import Digits
from denoisezoo.diffusion.processes.scalar import EDM

class TheirProcess(EDM):
    pass

class TheirDigits(Digits):
    pass
""",
    "nets": """
from denoisezoo.archs import Cost, Family
from denoisezoo.archs.ddpm import DDPM, DDPMConfig

class TheirNet(DDPM):
    pass

SIZES = dict(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), norm_groups=None)
FAMILY = Family("theirs", TheirNet, "A Paper", "They", 2026, "2601.00001")
FAMILY.variant("their_net", DDPMConfig(resolution=16, in_channels=1, out_channels=1, **SIZES), Cost(1, 1))
""",
}
RECIPE = f"""
extends: recipe.yaml
imports: [{PACKAGE}.parts, {PACKAGE}.nets]
model:
  denoiser: their_net
  process: {{class_path: TheirProcess, init_args: {{sigma_max: 60}}}}
data: {{class_path: TheirDigits, init_args: {{batch_size: 32}}}}
trainer: {{max_steps: 1}}
"""


class Outside:
    """A package of somebody else's that is on the path, and can be forgotten as in a new process."""

    def __init__(self, home):
        (home / PACKAGE).mkdir()
        for name, text in MODULES.items():
            (home / PACKAGE / f"{name}.py").write_text(text)

    @property
    def imported(self):
        return sorted(name for name in sys.modules if name.partition(".")[0] == PACKAGE)

    def forget(self):
        for name in self.imported:
            del sys.modules[name]
        for name in [name for name, origin in _VARIANTS._origin.items() if origin.startswith(PACKAGE)]:
            del _VARIANTS._items[name], _VARIANTS._origin[name]
        gc.collect()  # classes live on among the subclasses of theirs


@pytest.fixture
def outside(tmp_path, monkeypatch):
    home = tmp_path / "site"
    home.mkdir()
    monkeypatch.syspath_prepend(str(home))
    package = Outside(home)
    yield package
    package.forget()


@pytest.fixture
def theirs(recipe, tmp_path, outside):
    """Arguments of `train` for a recipe whose network, process and data are of the package."""
    path = tmp_path / "theirs.yaml"
    path.write_text(RECIPE)
    return ["--config", str(path), "--trainer.default_root_dir", str(tmp_path / "run")]


def test_their_run_is_loaded_where_they_are_trusted(theirs, outside, tmp_path, capsys):
    train(theirs)
    run, out, published = (str(tmp_path / name) for name in ("run", "out", "x.safetensors"))
    sample = ["sample", run, "--num", "1", "--steps", "2", "--out", out]
    outside.forget()
    line = refused(sample, capsys)
    assert f"imports {PACKAGE}.parts, of the package {PACKAGE}, whose code is not trusted" in line
    assert f"--trust {PACKAGE}" in line
    assert not outside.imported
    assert main([*sample, "--trust", PACKAGE]) == 0
    assert (tmp_path / "out" / "grid.png").is_file()
    outside.forget()
    assert main(["export", run, "--format", "safetensors", "--out", published, "--trust", f"other,{PACKAGE}"]) == 0
    for path in (run, published):
        outside.forget()
        with pytest.raises(UserError, match=f"`trust={PACKAGE}`"):
            load_run(path)
        assert not outside.imported
        loaded = load_run(path, trust=(PACKAGE,))
        assert loaded.name == "their_net"
        assert type(loaded.denoiser.process).__name__ == "TheirProcess"
        assert loaded.denoiser.process.t_max == 60
        assert type(loaded.data()).__name__ == "TheirDigits"  # built later, and trusted still


def test_a_recipe_that_is_typed_is_trusted(theirs, outside, tmp_path):
    train(theirs)
    folder = tmp_path / "run"
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    assert kept["imports"] == [f"{PACKAGE}.parts", f"{PACKAGE}.nets"]
    assert kept["model"]["process"]["class_path"] == f"{PACKAGE}.parts.TheirProcess"
    outside.forget()
    assert train([*theirs, "--trainer.max_steps", "2"]).steps == 2  # goes on
    outside.forget()
    words = ["--config", str(folder / "config.yaml"), "--trainer.max_steps", "3"]
    assert train(words).steps == 3
    outside.forget()
    (job,) = plan_jobs([theirs[1]], [0], Budget(), tmp_path / "compared")
    assert job.trust == (PACKAGE, PACKAGE)


def test_imports_of_all_recipes_and_of_the_command_line_add_up(recipe, outside, tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(f"extends: recipe.yaml\nimports: [{PACKAGE}.parts]")
    second.write_text(f"extends: first.yaml\nimports: [{PACKAGE}.nets, {PACKAGE}.parts]")

    def imports(*words):
        return plain_config(parse_recipe([*map(str, words), "--trainer.logger", "false"])).get("imports")

    both = [f"{PACKAGE}.parts", f"{PACKAGE}.nets"]
    assert imports("--config", recipe) is None
    assert imports("--config", second) == both
    assert imports("--config", first, "--imports", f"[{PACKAGE}.nets]") == both
    assert imports("--config", recipe, f"--imports=[{PACKAGE}.parts]", "--config", second) == both


@pytest.mark.parametrize(
    ("imports", "trust", "said"),
    [
        (["json", f"{PACKAGE}.nets"], "json", f"--trust {PACKAGE}"),
        ([f"{PACKAGE}.parts", "os"], PACKAGE, "--trust os"),
        ([f".{PACKAGE}"], PACKAGE, "not trusted"),
        ([f"{PACKAGE}.none"], PACKAGE, "cannot be imported"),
    ],
)
def test_a_file_has_its_imports_run_all_or_none(trained, outside, tmp_path, capsys, imports, trust, said):
    checkpoint = read_checkpoint(trained() / "checkpoints" / "last.ckpt")
    checkpoint["denoisezoo"]["recipe"]["imports"] = imports
    path = tmp_path / "x.ckpt"
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    outside.forget()
    assert said in refused(["sample", str(path), "--out", str(tmp_path / "out"), "--trust", trust], capsys)
    assert not [name for name in outside.imported if name != PACKAGE]
