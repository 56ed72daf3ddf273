"""Text of a recipe is text: from the command line or a file, through config.yaml and the checkpoint, and back."""

import re

import pytest
import yaml
from jsonargparse import get_loader

from denoisezoo.runs.build import build_data
from denoisezoo.train.recipe import parse_recipe, plain_config
from denoisezoo.train.recipe_names import CONFIGS, list_recipes
from denoisezoo.train.recipe_yaml import dump, load

PLAIN = [
    "1e5",
    "3E8",
    "yes",
    "off",
    "true",
    "007",
    "1_000",
    "0x10",
    "12",
    "1.5",
    ".5",
    "-3",
    "1:30",
    ".nan",
    "2024-01-01",
]
"""Names of folders that YAML, left alone, takes for something else."""
STRANGE = ["#x", "&a", "*a", "!x", "%a", "=", "<<", "{a}", "caf\udce9", "a#b", "1e5/yes"]
"""Names that are no plain scalars, and that a command line can hold."""


@pytest.fixture
def folder_recipe(recipe):
    """Writes a recipe over a folder of images, with data arguments as YAML text; returns its path."""

    def write(arguments: str) -> str:
        text = recipe.read_text()
        data = f"data:\n  class_path: ImageFolder\n  init_args: {{resolution: 16, batch_size: 4, {arguments}}}\n"
        recipe.write_text(re.sub(r"data:\n.*\n.*\n", lambda _: data, text))
        return str(recipe)

    return write


def written(args: list[str]) -> dict:
    """The arguments of the data, as the run writes them and reads them again."""
    cli = parse_recipe([*args, "--trainer.logger", "false"])
    config = load(dump(plain_config(cli)))
    again = build_data(config["data"])
    found = config["data"]["init_args"]
    assert (cli.datamodule.path, cli.datamodule.test_path) == (found["path"], found["test_path"])
    assert (again.path, again.test_path) == (found["path"], found["test_path"])
    return found


@pytest.mark.parametrize("name", PLAIN)
def test_a_path_that_looks_like_a_number_is_a_path(folder_recipe, name):
    for value in (name, yaml.safe_dump(name, default_style='"').strip()):
        found = written(["--config", folder_recipe(f"path: {value}, test_path: {value}")])
        assert (found["path"], found["test_path"]) == (name, name)


@pytest.mark.parametrize("name", PLAIN + STRANGE)
def test_a_path_of_the_command_line_is_what_was_typed(folder_recipe, name):
    found = written(["--config", folder_recipe("path: x"), f"--data.path={name}", f"--data.test_path={name}"])
    assert (found["path"], found["test_path"]) == (name, name)


def test_no_test_set_stays_none_and_numbers_stay_numbers(folder_recipe):
    found = written(["--config", folder_recipe("path: x, test_path: null, memory_limit_gb: 1e-2")])
    assert (found["test_path"], found["memory_limit_gb"]) == (None, 0.01)


def test_text_of_other_sections(folder_recipe, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = folder_recipe("path: x")
    (tmp_path / "recipe.yaml").write_text((tmp_path / "recipe.yaml").read_text() + "wandb: 1e5\n")
    text = (tmp_path / "recipe.yaml").read_text().replace("trainer:\n", "trainer:\n  default_root_dir: 007\n")
    (tmp_path / "recipe.yaml").write_text(text)
    config = plain_config(parse_recipe(["--config", path]))
    assert (config["wandb"], config["trainer"]["default_root_dir"]) == ("1e5", "007")


@pytest.mark.parametrize("value", [*PLAIN, *STRANGE, "null", "~", "", 1e-4, 1e5, 3, True, None, float("inf"), [1, "1"]])
def test_what_is_written_is_read_again(value):
    assert load(dump({"key": value})) == {"key": value}


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_are_read_as_ever(name):
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert load(text) == get_loader("yaml")(text)
