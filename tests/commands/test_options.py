"""The library names arguments, and the command line says which options those are."""

import ast
import re
from pathlib import Path

import pytest

from denoisezoo import cli
from denoisezoo.commands.options import with_options
from denoisezoo.errors import UserError

PACKAGE = Path(cli.__file__).parent


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("use a smaller `batch_size`", "use a smaller --batch-size"),
        ("give both, e.g. `guidance=2`", "give both, e.g. --guidance 2"),
        ("set `model.label_dropout=0.1` or `data.seed`", "set --model.label_dropout 0.1 or --data.seed"),
        ("see `denoisezoo doctor`, or N of `B,...`", "see `denoisezoo doctor`, or N of `B,...`"),
        ("`sampler=ddim:eta=0.5`", "--sampler ddim:eta=0.5"),
    ],
)
def test_options_of_arguments(text, expected):
    assert with_options(text) == expected


def test_the_command_line_speaks_of_options(monkeypatch, capsys):
    def fail(words):
        raise UserError("`batch_size` is 0", "give `batch_size=1`")

    monkeypatch.setattr(cli, "dispatch", fail)
    assert cli.main(["list"]) == cli.EXIT_USAGE
    assert capsys.readouterr().err == "error: --batch-size is 0; give --batch-size 1\n"


def messages(tree):
    """Texts with a space in them, of which some are messages, but for docstrings."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Constant) and isinstance(child.value, str) and not isinstance(node, ast.Expr):
                yield child.lineno, child.value


def test_no_message_of_the_library_names_an_option():
    """Outside of commands, which stand between backticks."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name == "cli.py" or name.startswith("commands/"):
            continue
        for line, text in messages(ast.parse(path.read_text())):
            outside = "".join(text.split("`")[::2])
            command = outside.startswith("denoisezoo ")
            if re.search(r"(^|[ (])--[a-z]", outside) and " " in outside.strip() and not command:
                found.append(f"{name}:{line}: {text}")
    assert not found
