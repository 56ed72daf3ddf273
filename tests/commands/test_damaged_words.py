"""350 random damages to configurations and command lines: no traceback, exit status 2, one line naming the key."""

import contextlib
import copy
import functools
import io
import re

import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from denoisezoo.cli import main
from tests.conftest import RECIPE

BASE = yaml.safe_load(RECIPE.replace("NAME", "ddpm_tiny"))


def leaves(config, path=()):
    """Dotted paths of all values."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


PATHS = sorted(leaves(BASE))
NUMBERS = [path for path in PATHS if type(functools.reduce(dict.__getitem__, path, BASE)) is int]
SECTIONS = ["model", "data", "trainer", "samples", "checkpoint", "ema", "guard", "model.optimizer", "data.init_args"]
LETTERS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=3, max_size=10).map(lambda text: "z" + text)


def replaced(path, value):
    """The base configuration with another value."""
    config = copy.deepcopy(BASE)
    inside = config
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return config


def added(section, key, value):
    """The base configuration with another key."""
    config = copy.deepcopy(BASE)
    inside = config
    for part in section.split("."):
        inside = inside.setdefault(part, {})
    inside[key] = value
    return config


not_numbers = st.one_of(LETTERS, st.just([1, 2]), st.just({"a": 1}))
wrong_numbers = st.tuples(st.sampled_from(NUMBERS), not_numbers).map(
    lambda found: (yaml.safe_dump(replaced(*found)), [], found[0][-1])
)
negative = [
    *("seed_everything", "log_every_n_steps", "batch_size", "every_n_steps", "max_steps"),
    *("in_channels", "resolution", "num_classes"),
]
negative_numbers = st.tuples(
    st.sampled_from([path for path in NUMBERS if path[-1] in negative]), st.integers(-(10**9), -2)
).map(lambda found: (yaml.safe_dump(replaced(*found)), [], found[0][-1]))
unknown_keys = st.tuples(st.sampled_from(SECTIONS), LETTERS, st.integers(0, 9)).map(
    lambda found: (yaml.safe_dump(added(*found)), [], found[1])
)
unknown_classes = st.tuples(st.sampled_from([p for p in PATHS if p[-1] == "class_path"]), LETTERS).map(
    lambda found: (yaml.safe_dump(replaced(*found)), [], found[1])
)
unknown_options = st.tuples(st.sampled_from(SECTIONS), LETTERS).map(
    lambda found: (None, [f"--{found[0]}.{found[1]}", "1"], found[1])
)
wrong_values = st.tuples(st.sampled_from(NUMBERS), LETTERS).map(
    lambda found: (None, [f"--{'.'.join(found[0])}", found[1]], found[0][-1])
)
truncated = st.integers(10, len(RECIPE) - 2).map(lambda n: (RECIPE.replace("NAME", "ddpm_tiny")[:n], [], None))
garbled = st.tuples(st.integers(0, len(RECIPE) - 1), st.sampled_from("{}[]:\t'\"%&*!|>@`\0\x7f")).map(
    lambda found: (RECIPE.replace("NAME", "ddpm_tiny")[: found[0]] + found[1] + RECIPE[found[0] :], [], None)
)
damage = st.one_of(
    *(wrong_numbers, negative_numbers, unknown_keys, unknown_classes, unknown_options, wrong_values),
    *(truncated, garbled),
)


def run(words):
    """(exit status, what was said) of the program."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main(words)
    return status, said.getvalue()


@pytest.fixture(autouse=True)
def trains_nothing(monkeypatch):
    """A damage that leaves a valid recipe, such as a cut at the end of a line, is not trained."""
    from lightning.pytorch import Trainer

    def reached(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", reached)


def check(status, said, key):
    """One line, status 2, the key in it."""
    lines = [line for line in said.splitlines() if line and not line.startswith("warning: ")]
    assert "Traceback" not in said
    if key is None and status == 130:  # the damage left a valid recipe
        return
    assert status == 2, said
    assert len(lines) == 1, said
    assert re.match(r"error: .+; .+", lines[0])
    if key is not None:
        assert str(key) in lines[0], f"{lines[0]} does not name {key}"


@seed(0)
@settings(max_examples=220, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(case=damage)
def test_damaged_recipes(case, tmp_path):
    text, words, key = case
    path = tmp_path / "recipe.yaml"
    path.write_text(text if text is not None else RECIPE.replace("NAME", "ddpm_tiny"))
    status, said = run(["train", "--config", str(path), "--trainer.default_root_dir", str(tmp_path / "run"), *words])
    check(status, said, key)


COMMANDS = {
    "sample": ["--sampler", "--steps", "--num", "--seed", "--batch-size", "--device", "--dtype", "--label"],
    "evaluate": ["--sampler", "--steps", "--num", "--split", "--weights"],
    "profile": ["--batch-size", "--device", "--dtype", "--steps"],
    "compare": ["--budget", "--seeds", "--launcher", "--jobs", "--launcher-options"],
    "export": ["--format", "--weights"],
    "list": ["--family"],
    "info": [],
}


@st.composite
def damaged_lines(draw):
    """A command with an option that it does not have, or a value that the option does not take."""
    command = draw(st.sampled_from(sorted(COMMANDS)))
    subject = {"compare": "digits/ddpm", "list": "*", "info": "ddpm_tiny", "profile": "ddpm_tiny"}.get(command, "RUN")
    word = draw(LETTERS)
    if not COMMANDS[command] or draw(st.booleans()):
        return [command, subject, f"--{word}", "1"], word
    option = draw(st.sampled_from(COMMANDS[command]))
    return [command, subject, option, word], option.lstrip("-")


@seed(0)
@settings(max_examples=130, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(case=damaged_lines())
def test_damaged_command_lines(case, tmp_path):
    words, key = case
    status, said = run([str(tmp_path / "nowhere") if word == "RUN" else word for word in words])
    check(status, said, None)
    assert status == 2
    assert key in said or words[-1] in said or "nowhere" in said
