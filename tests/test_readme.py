"""What the README shows is so."""

import re
import shlex
from pathlib import Path

from denoisezoo.archs import get_variant, list_denoisers
from denoisezoo.cli import COMMANDS
from denoisezoo.train.recipe_files import find_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_its_code_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_its_table_is_the_registry():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \| .*arXiv", README, re.M))
    listed = {name: family for family, names in rows.items() for name in re.findall(r"`(\w+)`", names)}
    assert listed == {name: get_variant(name).family.name for name in list_denoisers()}


def test_its_commands_exist():
    shown = [line.strip() for line in README.splitlines() if line.startswith("    denoisezoo ")]
    assert shown
    for line in shown:
        words = shlex.split(line, comments=True)
        assert words[1] in COMMANDS
        for recipe in (w for w in words if w.startswith("digits/")):
            find_recipe(recipe)


def test_its_make_targets_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake (\w+)", README + (ROOT / "CONTRIBUTING.md").read_text())) <= targets
