"""Recipes that extend others: what is merged, what is replaced, and what is refused."""

import re
from pathlib import Path

import pytest
import yaml

from denoisezoo.cli import main
from denoisezoo.train.fit import train
from denoisezoo.train.recipe import parse_recipe, plain_config
from denoisezoo.train.recipe_files import EXTENDS, read_recipe
from denoisezoo.train.recipe_names import find_recipe, list_recipes
from tests.commands.test_wrong_numbers import refused


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes recipes by the names of their files, and gives what the first says with all that it extends."""
    monkeypatch.chdir(tmp_path)

    def write(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return read_recipe(tmp_path / f"{next(iter(texts))}.yaml").sections

    return write


def resolved(*words):
    return plain_config(parse_recipe([*map(str, words), "--trainer.logger", "false", "--trainer.accelerator", "cpu"]))


def test_mappings_merge_and_the_rest_is_replaced(written):
    found = written(
        a="extends: b.yaml\nmodel: {network: {y: [3]}, optimizer: {lr: 1}}\nwandb: null\nema: {half_life: 3}",
        b="model: {network: {x: 1, y: [1, 2]}, optimizer: {lr: 2, name: adam}, effort: full}\nwandb: w",
    )
    model = {"network": {"x": 1, "y": [3]}, "optimizer": {"lr": 1, "name": "adam"}, "effort": "full"}
    assert found == {"model": model, "wandb": None, "ema": {"half_life": 3}}


@pytest.mark.parametrize(
    ("child", "expected"),
    [
        ("{init_args: {b: 2}}", {"class_path": "X", "init_args": {"a": 1, "b": 2}}),
        ("{class_path: X, init_args: {b: 2}}", {"class_path": "X", "init_args": {"a": 1, "b": 2}}),
        ("{class_path: x.y.X, init_args: {b: 2}}", {"class_path": "x.y.X", "init_args": {"a": 1, "b": 2}}),
        ("{class_path: y.XX, init_args: {b: 2}}", {"class_path": "y.XX", "init_args": {"b": 2}}),
        ("{class_path: Y}", {"class_path": "Y"}),
        ("Y", "Y"),
        ("null", None),
    ],
)
def test_arguments_belong_to_their_class(written, child, expected):
    found = written(
        a=f"extends: b.yaml\nmodel: {{process: {child}}}", b="model: {process: {class_path: X, init_args: {a: 1}}}"
    )
    assert found["model"]["process"] == expected


def test_arguments_of_a_class_that_the_parent_names_alone(written):
    found = written(a="extends: b.yaml\nmodel: {x: {init_args: {b: 2}}}", b="model: {x: X}")
    assert found["model"]["x"] == {"class_path": "X", "init_args": {"b": 2}}


def test_levels_paths_and_yaml_s_own_merging(written, tmp_path):
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "c.yaml").write_text("extends: d.yaml\ntrainer: {max_steps: 2}")  # seen from its own folder
    (tmp_path / "bases" / "d.yaml").write_text("trainer: {max_steps: 1, min_steps: 1}\ndata: {class_path: Digits}")
    found = written(
        a="extends: b.yaml\ntrainer: {<<: {min_steps: 3}, devices: 1}",
        b="extends: bases/c.yaml\ndata: {init_args: {batch_size: 3}}",
    )
    assert found["trainer"] == {"max_steps": 2, "min_steps": 3, "devices": 1}
    assert found["data"] == {"class_path": "Digits", "init_args": {"batch_size": 3}}


def test_text_stays_text_where_the_parent_names_the_class(tmp_path):
    """A folder called 1e5 or 007 is told from a number by its argument, which the child does not say whose it is."""
    (tmp_path / "b.yaml").write_text("extends: photos32/ddpm\ndata: {class_path: ImageFolder}")
    (tmp_path / "a.yaml").write_text("extends: b.yaml\ndata: {init_args: {path: 007, test_path: 1e5, resolution: 32}}")
    arguments = resolved("--config", tmp_path / "a.yaml")["data"]["init_args"]
    assert (arguments["path"], arguments["test_path"]) == ("007", "1e5")


def test_the_run_and_the_printed_recipe_are_resolved(recipe, tmp_path, capsys):
    child = tmp_path / "child.yaml"
    child.write_text(f"extends: recipe.yaml\ntrainer: {{max_steps: 1, default_root_dir: {tmp_path / 'run'}}}\n")
    config = resolved("--config", child)
    by_hand = ["--trainer.max_steps", "1", "--trainer.default_root_dir", tmp_path / "run"]
    assert config == resolved("--config", recipe, *by_hand)
    assert EXTENDS not in config
    capsys.readouterr()
    assert main(["train", "--config", str(child), "--print_config"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert yaml.safe_load(printed.read_text())["trainer"]["max_steps"] == 1
    assert resolved("--config", printed) == config
    train(["--config", str(child)])
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert EXTENDS not in kept
    assert kept["trainer"]["max_steps"] == 1
    assert train(["--config", str(tmp_path / "run" / "config.yaml")]).steps == 1  # the same run, at its end


def test_a_recipe_after_another_still_merges_into_it(recipe, tmp_path):
    """The network of the first is extended, and the second extends a recipe of its own."""
    first, second, base = (tmp_path / f"{name}.yaml" for name in ("first", "second", "base"))
    first.write_text("extends: recipe.yaml\nmodel: {network: {dropout: 0.25}}")
    base.write_text("trainer: {max_steps: 9}\nmodel: {network: {blocks: 2}}")
    second.write_text("extends: base.yaml\ntrainer: {log_every_n_steps: 3}")
    config = resolved("--config", first, f"--config={second}")
    assert config["model"]["network"] == {
        **yaml.safe_load(recipe.read_text())["model"]["network"],
        "dropout": 0.25,
        "blocks": 2,
    }
    assert (config["trainer"]["max_steps"], config["trainer"]["log_every_n_steps"]) == (9, 3)
    assert config["model"]["process"]["class_path"].endswith("EDM")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"a": "extends: a.yaml"}, "a.yaml extends itself; take the extends"),
        ({"a": "extends: b.yaml", "b": "extends: a.yaml"}, "a.yaml extends itself, through .*b.yaml"),
        ({"a": "extends: digits/ddpn"}, "unknown recipe 'digits/ddpn', which a.yaml extends; .*digits/ddpm"),
        ({"a": "extends: none.yaml"}, "there is no recipe file none.yaml, which .*a.yaml extends"),
        ({"a": "extends: https://x.y/z.yaml"}, "is a URL"),
        ({"a": "extends: [b.yaml]"}, "extends in .*a.yaml is .*; give one name"),
        ({"a": "extends:"}, "extends in .*a.yaml is None"),
        ({"a": "extends: b.yaml", "b": "model: [unclosed"}, "b.yaml is no YAML"),
        ({"a": "extends: b.yaml", "b": "- model"}, "b.yaml holds no sections"),
        ({"a": "extends: b.yaml", "b": ""}, "a.yaml holds no sections"),
        ({"a": "extends: b.yaml\nsamples:", "b": "ema: {}"}, "samples is empty in .*a.yaml"),
        ({"a": "extends: digits/ddpm\nmodel: {optimiser: {lr: 1}}"}, "unknown key 'model.optimiser'; .*optimizer"),
        ({"a": "extends: digits/ddpm\nmodel: {process: {class_path: EDMM}}"}, "unknown class 'EDMM'; did you mean EDM"),
        ({"a": "extends: digits/ddpm\nimports: their"}, "imports in .*a.yaml is 'their'; give a list"),
        ({"a": "extend: digits/ddpm"}, "unknown key 'extend'; did you mean extends"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, texts, message):
    monkeypatch.chdir(tmp_path)
    for name, text in texts.items():
        Path(f"{name}.yaml").write_text(text)
    assert re.search(message, refused(["train", "--config", "a.yaml"], capsys))


def test_shipped_recipes_extend_shipped_ones_at_most_twice():
    """Each is one of its data set's, or of a smaller one's; a chain of three would have to be read in four files."""
    parents = {name: yaml.safe_load(find_recipe(name).read_text()).get(EXTENDS) for name in list_recipes()}
    for name, parent in parents.items():
        chain = [parent] if parent else []
        while chain and (above := parents[chain[-1]]):
            chain.append(above)
        assert len(chain) <= 2, name
