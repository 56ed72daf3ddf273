"""Imports go one way, and no file outside their home names an architecture or a process."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import denoisezoo
from denoisezoo.archs import list_denoisers, list_families
from denoisezoo.diffusion import OBJECTIVES, PRECONDITIONINGS, PROCESSES, SAMPLERS

PACKAGE = Path(denoisezoo.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS = [
    {
        "errors",
        "recorded",
        "version",
        "extras",
        "registry",
        "files",
        "locking",
        "progress",
        "allocator",
        "machine_load",
        "plugins",
        "checkpoint_files",
        "pixels",
        "pictures",
        "tables",
        "ranks",
        "callable_package",
    },
    {"nn"},
    {"archs"},
    {"diffusion"},
    {"data"},
    {"plans"},
    {"profiling"},
    {"evaluation"},
    {"train"},
    {"interop"},
    {"runs"},
    {"search", "compare", "studies"},
    {"report"},
    {"api"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
"""A file may import from its own entry and from those of earlier layers; entries of one layer do not know each other.
Leaves may know each other."""
LEVEL = {entry: level for level, entries in enumerate(LAYERS) for entry in entries}


def entry_of(path: Path) -> str:
    """The top-level module or package that a file belongs to; "" for the package's own file."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0].replace("__init__", "")


def imported_modules(tree: ast.AST, path: Path) -> Iterator[str]:
    """Dotted names of everything that a file imports, inside functions and for type checking too."""
    package = ["denoisezoo", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("denoisezoo."):
            yield node.value  # for importlib


def imported_entries(tree: ast.AST, path: Path) -> Iterator[str]:
    """Top-level entries of this package that a file imports."""
    for name in imported_modules(tree, path):
        parts = name.split(".")
        if parts[0] == "denoisezoo" and len(parts) > 1 and parts[1] in LEVEL:
            yield parts[1]


def wrong_imports(source: str, path: Path) -> list[str]:
    """Entries that a file should not import."""
    own = entry_of(path)
    if own == "":  # the package's own file is the public API; the program is above it
        return [entry for entry in imported_entries(ast.parse(source), path) if LEVEL[entry] > LEVEL["api"]]
    return [
        entry
        for entry in imported_entries(ast.parse(source), path)
        if entry != own and (LEVEL[entry] > LEVEL[own] or (LEVEL[entry] == LEVEL[own] > 0))
    ]


def strings(source: str) -> set[str]:
    """String literals of a file, docstrings left out."""
    tree = ast.parse(source)
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs)
    return {node.value for node in constants if isinstance(node.value, str)}


def architectures_named(source: str, path: Path) -> set[str]:
    """Denoisers and families that a file names, where it should not."""
    own = entry_of(path)
    if own in {"archs", "configs", "interop"}:
        return set()
    names = {*list_denoisers(), *list_families()}
    if own == "diffusion":  # papers gave one name to a network, a sampler and a process
        names -= {*SAMPLERS, *PROCESSES, *PRECONDITIONINGS, *OBJECTIVES}
    return names & strings(source)


def processes_named(source: str, path: Path) -> set[str]:
    """Processes that a file names or imports, where it should not."""
    if entry_of(path) in {"diffusion", "interop"}:  # what a file of others holds is read as a recipe
        return set()
    classes = {cls.__name__ for cls in PROCESSES.values()}
    imported = {name.rpartition(".")[2] for name in imported_modules(ast.parse(source), path) if "denoisezoo" in name}
    names = {*PROCESSES}
    if entry_of(path) == "archs":  # papers gave one name to a network and a process
        names -= {*list_families()}
    return (names & strings(source)) | ((classes | {"processes"}) & imported)


EXPORTS = {PACKAGE / "__init__.py", PACKAGE / "diffusion/__init__.py"}
"""What lists everything for those who import it."""
OWN = {PACKAGE / "diffusion/langevin_preconditioning.py"}
"""Files beside the processes that serve one family of them, which no other process can stand in for."""


def concrete_processes(source: str, path: Path) -> set[str]:
    """Process classes that the code of a file names: capabilities are asked for instead, wherever any process comes."""
    if path in EXPORTS | OWN or path.parent == PACKAGE / "diffusion/processes":
        return set()
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found.add(node.name)
    return found & {cls.__name__ for cls in PROCESSES.values()}


def options_named(source: str, path: Path) -> set[str]:
    """Texts of a file that name options of the command line, where there is none; what to type as a command may."""
    if entry_of(path) not in {"nn", "archs", "diffusion"}:
        return set()
    return {text for text in strings(source) if re.search(r"(?<![\w-])--[a-z]", text) and "denoisezoo " not in text}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_keeps_to_its_place(path):
    source = path.read_text(encoding="utf-8")
    assert entry_of(path) in {*LEVEL, "configs", ""}, "a new top-level entry needs a layer"
    assert not wrong_imports(source, path)
    assert not architectures_named(source, path)
    assert not processes_named(source, path)
    assert not concrete_processes(source, path)
    assert not options_named(source, path)


BAD_IMPORTS = {
    "upward": ("diffusion/x.py", "from denoisezoo.train import fit"),
    "upward in a function": ("archs/x.py", "def f():\n    import denoisezoo.profiling.counting"),
    "upward for types": ("diffusion/x.py", "if TYPE_CHECKING:\n    from denoisezoo import report"),
    "upward, relative": ("archs/x.py", "from ..diffusion import Denoiser"),
    "upward by name": ("plans/x.py", "import_module('denoisezoo.evaluation.card')"),
    "sideways": ("search/x.py", "from denoisezoo.compare import records"),
    "leaf": ("errors.py", "from denoisezoo.archs import Backbone"),
}


@pytest.mark.parametrize("case", BAD_IMPORTS)
def test_a_wrong_import_is_seen(case):
    name, source = BAD_IMPORTS[case]
    assert wrong_imports(source, PACKAGE / name)


def test_a_right_import_is_not():
    assert not wrong_imports("from denoisezoo.archs import Backbone\nimport torch", PACKAGE / "train/x.py")
    assert not wrong_imports("from denoisezoo.report.rows import result_rows", PACKAGE / "report/x.py")


def test_names_are_seen():
    denoiser, family, process = list_denoisers()[0], list_families()[0], next(iter(PROCESSES))
    path = PACKAGE / "train/x.py"
    assert architectures_named(f"build('{denoiser}')", path) == {denoiser}
    assert architectures_named(f"if family == '{family}': pass", path) == {family}
    assert architectures_named(f'"""{denoiser}"""', path) == set()
    assert processes_named(f"make({process!r})", path) == {process}
    assert processes_named("from denoisezoo.diffusion.processes.scalar import VP", path) == {"VP"}
    assert processes_named("from denoisezoo.diffusion import processes", path) == {"processes"}
    assert processes_named(f"make({process!r})", PACKAGE / "diffusion/x.py") == set()


def test_concrete_processes_and_options_are_seen():
    inside = PACKAGE / "diffusion/x.py"
    assert concrete_processes("isinstance(process, CLD)", inside) == {"CLD"}
    assert concrete_processes("isinstance(process, processes.Joint)", inside) == {"Joint"}
    assert concrete_processes("from denoisezoo.diffusion.processes.scalar import VP as Plain", inside) == {"VP"}
    assert concrete_processes("isinstance(process, CLD)", PACKAGE / "train/x.py") == {"CLD"}
    assert concrete_processes("isinstance(process, (Staged, ScalarProcess))", inside) == set()
    assert concrete_processes("x = EDM()", PACKAGE / "diffusion/processes/x.py") == set()
    assert options_named("f'add --model.process.resolution {n}'", inside) == {"add --model.process.resolution "}
    assert options_named("'see denoisezoo sample --help'", inside) == set()
    assert options_named("'add --steps 3'", PACKAGE / "commands/x.py") == set()


def test_no_two_files_have_one_stem_but_commands_and_what_they_call():
    rooms = {}
    for path in FILES:
        if path.stem not in {"__init__", "__main__"} and entry_of(path) != "commands":
            rooms.setdefault(path.stem, []).append(entry_of(path))
    assert {stem: places for stem, places in rooms.items() if len(places) > 1} == {}
