"""350 random damages to configurations and command lines: no traceback, exit status 2, one line naming the key."""

import contextlib
import copy
import io
import math
import re

import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from denoisezoo.cli import main
from tests.conftest import RECIPE

TEXT = RECIPE.replace("NAME", "ddpm_tiny")
BASE = yaml.safe_load(TEXT)
NAN, INF = math.nan, math.inf
FILE = "recipe.yaml"

LETTERS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=3, max_size=10).map(lambda text: "z" + text)
SECTIONS = ["model", "data", "trainer", "samples", "checkpoint", "ema", "guard", "model.optimizer", "data.init_args"]
CLASSES = ["model.process", "model.preconditioning", "model.objective", "data"]
LEAST = {
    "seed_everything": 0,
    "trainer.max_steps": -1,
    "trainer.log_every_n_steps": 1,
    "trainer.devices": -1,
    "trainer.accumulate_grad_batches": 1,
    "model.optimizer.warmup_steps": 0,
    "model.network.in_channels": 1,
    "model.network.resolution": 1,
    "model.network.num_classes": 0,
    "data.init_args.resolution": 1,
    "data.init_args.batch_size": 1,
    "data.init_args.seed": 0,
    "samples.every_n_steps": 0,
    "samples.num": 1,
    "samples.steps": 1,
    "checkpoint.every_n_steps": 1,
    "guard.max_in_row": 0,
}
"""Whole numbers, and the least that each may be."""
RIGHT_TYPE = {
    "trainer.devices": [0],
    "trainer.precision": [0, -2, 7],
    "trainer.limit_val_batches": [-2, NAN, -0.5, 1.5],
    "trainer.gradient_clip_val": [-1, NAN, INF],
    "model.optimizer.lr": [0, -1, -0.5, NAN, INF, -INF],
    "model.optimizer.weight_decay": [-1, NAN, INF],
    "model.optimizer.betas": [[0.9, 1.0], [NAN, 0.9], [-0.1, 0.9]],
    "data.init_args.batch_size": [1622, 10**9],
    "data.init_args.resolution": [7, 17, 128],
    "seed_everything": [2**32, 10**15],
    "ema.half_life": [0, -1, NAN, INF],
}
"""Numbers that have the right type and are out of range."""
WRONG_TYPE = {
    **dict.fromkeys(LEAST, (NAN, INF, -INF, 1.5, -0.25, None, [1, 2], {"a": 1})),
    "seed_everything": (NAN, INF, -INF, 1.5, -0.25, [1, 2], {"a": 1}),  # null is its default
    "trainer.devices": (NAN, INF, 1.5, None, {"a": 1}),
    "trainer.log_every_n_steps": (NAN, INF, 1.5, [1, 2], {"a": 1}),  # Lightning takes null for its default
    "trainer.accelerator": (NAN, -2, 1.5, {"a": 1}),
    "trainer.precision": (NAN, 1.5, [1]),
    "trainer.strategy": (NAN, -2, 1.5, {"a": 1}),
    "trainer.max_time": (NAN, -2, 1.5, [1], {"a": 1}),
    "trainer.enable_progress_bar": (NAN, 2, 1.5, [1]),
    "model.denoiser": (NAN, -2, None, [1], {"a": 1}),
    "model.optimizer.lr": (None, [1, 2], {"a": 1}),
    "model.optimizer.betas": (None, 1, [0.9], [0.9, "z"]),
    "model.optimizer.schedule": (NAN, 2, None, [1]),
    "data.init_args.labels": (NAN, 2, None, [1]),
    "data.init_args.horizontal_flip": (NAN, 2, None, [1]),
}
WORDS = ["trainer.max_time", "trainer.strategy", "trainer.precision", "trainer.accelerator", "trainer.devices"]


def added(path, value):
    """The base configuration with a value at a dotted path."""
    config = copy.deepcopy(BASE)
    inside = config
    *sections, key = path.split(".")
    for part in sections:
        inside = inside.setdefault(part, {})
    inside[key] = value
    return yaml.safe_dump(config)


def as_word(value):
    """A value as one writes it on the command line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()


def placed(path, value, on_line, names=()):
    """Text of the recipe, further words, and the names of which the message must hold one."""
    names = names or (path.rpartition(".")[2],)
    return (TEXT, [f"--{path}={as_word(value)}"], names) if on_line else (added(path, value), [], names)


@st.composite
def wrong_values(draw):
    """A value that a known key cannot have, in the recipe or on the command line."""
    kind = draw(st.sampled_from(["type", "range", "least", "word"]))
    table = {"type": WRONG_TYPE, "range": RIGHT_TYPE, "least": LEAST}.get(kind, [*WRONG_TYPE, *WORDS])
    path = draw(st.sampled_from(sorted(table)))
    if kind == "least":
        value = draw(st.integers(-(10**9), LEAST[path] - 1))
    else:
        value = draw(LETTERS if kind == "word" else st.sampled_from(table[path]))
    return placed(path, value, draw(st.booleans()))


@st.composite
def unknown_names(draw):
    """A key or a class that there is not."""
    word, on_line = draw(LETTERS), draw(st.booleans())
    if draw(st.booleans()):
        return placed(f"{draw(st.sampled_from(SECTIONS))}.{word}", draw(st.integers(0, 9)), on_line, (word,))
    return placed(f"{draw(st.sampled_from(CLASSES))}.class_path", word, on_line, (word,))


def missing(text):
    """What a recipe cannot do without and the text does not have."""
    needed = ["model", "denoiser", "process", "preconditioning", "objective", "data"]
    return [name for name in needed if not re.search(rf"^ *{name}:", text, re.M)]


def cut(n):
    """The first letters of the recipe: the file is named, or the key at the cut, or one that is missing."""
    return TEXT[:n], [], (FILE, *re.findall(r"\w+", TEXT[:n].splitlines()[-1]), *missing(TEXT[:n]))


def garble(n, letter):
    """A letter too many: the file is named, or what it stands in, or the key of the line."""
    text = TEXT[:n] + letter + TEXT[n:]
    line = text[text.rfind("\n", 0, n) + 1 :].partition("\n")[0]
    short = (f"'{word}'" for word in re.findall(r"\w+", line))  # a key of which one or two letters are left
    return text, [], (FILE, *re.findall(r"\w{3,}", line), *short, *missing(text))


truncated = st.integers(10, len(TEXT) - 2).map(cut)
garbled = st.builds(garble, st.integers(0, len(TEXT) - 1), st.sampled_from("{}[]:\t'\"%&*!|>@`\0\x7f"))
damage = st.one_of(wrong_values(), wrong_values(), wrong_values(), unknown_names(), unknown_names(), truncated, garbled)


def run(words):
    """(exit status, what was said) of the program."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main(words)
    return status, said.getvalue()


@pytest.fixture
def trains_nothing(monkeypatch):
    """A damage that leaves a valid recipe, such as a cut at the end of a line, is not trained."""
    from lightning.pytorch import Trainer

    def reached(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", reached)


def check(status, said, names):
    """One line, status 2, one of the names in it."""
    lines = [line for line in said.splitlines() if line and not line.startswith("warning: ")]
    assert "Traceback" not in said
    assert status == 2, said
    assert len(lines) == 1, said
    assert re.match(r"error: .+; .+", lines[0])
    dotted = [f".{name[1:]}" for name in names if name.startswith("'")]  # a key with the section that it is in
    assert any(name in lines[0] for name in (*names, *dotted)), f"{lines[0]} names none of {names}"


@seed(0)
@settings(max_examples=220, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(case=damage)
def test_damaged_recipes(case, tmp_path, trains_nothing):
    text, words, names = case
    path = tmp_path / FILE
    path.write_text(text)
    status, said = run(["train", "--config", str(path), "--trainer.default_root_dir", str(tmp_path / "run"), *words])
    if FILE in names and status == 130:  # the damage left a valid recipe
        return
    check(status, said, names)


NO_NUMBER = ("nan", "inf", "1.5", "-1", "1e3")
COUNT, SHARE = ("0", *NO_NUMBER), ("nan", "inf", "-1", "z")
SAMPLING = {
    **dict.fromkeys(["--steps", "--num", "--batch-size", "--draws"], COUNT),
    "--seed": NO_NUMBER,
    "--guidance": ("nan", "inf", "z"),
    "--guidance-interval": ("nan,1", "2,1", "1", "-1,1"),
    "--sampler": ("zheun:eta=1", "7"),
    "--device": ("cuda:99", "7"),
    "--dtype": ("int8", "7"),
}
COMMANDS = {
    "sample": ["RUN", SAMPLING | {"--label": NO_NUMBER[:3], "--weights": (), "--interpolate": ("0", "1", "nan")}],
    "evaluate": ["RUN", SAMPLING | {"--split": (), "--weights": ()}],
    "profile": [
        "ddpm_tiny",
        {
            "--batch-size": COUNT,
            "--steps": COUNT,
            "--resolution": COUNT,
            "--runs": COUNT,
            "--depth": COUNT,
            "--device": ("7",),
            "--dtype": ("int8",),
            "--effort": SHARE,
            "--counter": (),
            "--process": (),
        },
    ],
    "compare": [
        "digits/ddpm",
        {
            "--budget": ("images=0", "images=nan", "macs=-1", "minutes=inf", "hours=1", "7"),
            "--jobs": COUNT,
            "--seeds": ("0,-1", "0,nan", "1.5", ","),
            "--launcher": (),
            "--launcher-options": ("a", "=1"),
        },
    ],
    "search": [
        "RUN",
        {
            "--budget": ("0", "2", *SHARE),
            "--method": (),
            "--cost": (),
            "--levels": COUNT,
            "--images": COUNT,
            "--switch-penalty": SHARE,
            "--mutation": SHARE,
            "--trials": COUNT,
            "--genome": (),
            "--weights": (),
        },
    ],
    "study": [
        "solvers RUN",
        {
            "--solver-steps": COUNT,
            "--tolerances": ("0", *SHARE),
            "--levels": ("0", *SHARE),
            "--nfe": COUNT,
            "--memory-batch": COUNT,
            "--snr": ("nan", "inf", "-101", "z"),
            "--resolutions": COUNT,
        },
    ],
    "export": ["RUN", {"--format": (), "--weights": ()}],
    "list": ["*", {"--family": ("7", "nan")}],
    "info": ["ddpm_tiny", {}],
    "dashboard": ["zoo", {}],
    "doctor": ["", {}],
}
"""Command -> what it is given, and its options with values that each does not take; no option takes a random word."""


@st.composite
def damaged_lines(draw):
    """A command with an option that it does not have, or a value that the option does not take."""
    command = draw(st.sampled_from(sorted(COMMANDS)))
    subjects, options = COMMANDS[command]
    words, word = [command, *subjects.split()], draw(LETTERS)
    if not options or draw(st.integers(0, 3)) == 0:
        return [*words, f"--{word}", "1"], word
    option = draw(st.sampled_from(sorted(options)))
    return [*words, f"{option}={draw(st.sampled_from([word, *options[option]]))}"], option.lstrip("-")


@seed(0)
@settings(max_examples=130, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(case=damaged_lines())
def test_damaged_command_lines(case, a_run):
    words, key = case
    status, said = run([str(a_run) if word == "RUN" else word for word in words])
    check(status, said, (key, key.replace("-", "_"), key.replace("-", " ")))


@pytest.fixture
def a_run(trained, tmp_path):
    """A trained run, so that the damaged word is all that is wrong; nothing is sampled of it."""
    return trained()
