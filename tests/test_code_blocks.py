"""Every block of code on a page of the documentation runs, or says why not: `<!-- not run: why -->` above it.

Commands run in their order, with fewer steps and images; those that are not run are read as far as their options go.
"""

import gc
import importlib
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from denoisezoo.archs.backbone import without_pretrained_weights
from denoisezoo.cli import main
from denoisezoo.commands.arguments import Parser, declare
from denoisezoo.commands.program import COMMANDS
from denoisezoo.diffusion import PROCESSES, perceptual
from denoisezoo.extras import declared
from denoisezoo.interop import FORMATS
from denoisezoo.plans import Plan
from denoisezoo.train import callbacks
from denoisezoo.train.recipe import parse_recipe
from denoisezoo.train.recipe_names import expand, list_recipes
from denoisezoo.train.suited import check_data
from denoisezoo.train.training_module import TrainingModule
from tests.code_blocks import blocks_of, commands_of

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN_BY = {
    ("docs/interop.md", "sh"): "tests/interop/test_interop_page.py",
    ("CONTRIBUTING.md", "python"): "tests/diffusion/test_capabilities.py",
}
"""(Page, kind of block) -> the test that runs them, with the files that they need."""
KINDS = {
    "sh": "a command",
    "bash": "a script",
    "python": "",
    "yaml": "sections of a recipe",
    "json": "a plan",
    "toml": "of a pyproject.toml",
    "text": "",
}


def place(block):
    """What a test is called."""
    return f"{block.page.relative_to(ROOT)}:{block.line}"


def to_run(*kinds):
    """Blocks of some kinds that run here."""
    own = [b for b in BLOCKS if (str(b.page.relative_to(ROOT)), b.kind) not in RUN_BY]
    return [block for block in own if block.kind in kinds and block.reason is None]


def programs_of(block):
    """Commands of denoisezoo in a block, without its name, those that another program starts included; and others."""
    ours, others = [], []
    for words in commands_of(block.text):
        if "denoisezoo" in words:
            ours.append(words[words.index("denoisezoo") + 1 :])
        else:
            others.append(words)
    return ours, others


def test_blocks_are_of_known_kinds():
    assert {block.kind for block in BLOCKS} <= set(KINDS)
    for block in BLOCKS:
        assert block.kind != "python" or compile(block.text, place(block), "exec")
    for (page, _), test in RUN_BY.items():
        assert Path(page).name in (ROOT / test).read_text()


def test_only_the_program_itself_runs():
    for block in to_run("sh", "bash"):
        words = [words[0] for words in commands_of(block.text)]
        assert set(words) == {"denoisezoo"}, f"{place(block)}: say why not, <!-- not run: why -->"


FEWER = {"steps=400": "steps=2"}
"""What Python is shown with -> what it is run with."""


@pytest.fixture
def own_registries(monkeypatch):
    """What a block registers is forgotten after it."""
    for table in (PROCESSES, FORMATS):
        monkeypatch.setattr(table, "_items", dict(table._items))
        monkeypatch.setattr(table, "_origin", dict(table._origin))
    yield
    gc.collect()  # a class is a subclass of its base until then


@pytest.mark.parametrize("block", to_run("python"), ids=place)
def test_python(block, own_registries, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = block.text
    for shown, run in FEWER.items():
        text = text.replace(shown, run)
    exec(compile(text, place(block), "exec"), {"__name__": "shown"})


BUILT_UPON = {"docs/channel.md": "digits/channel_concat", "docs/conditional.md": "digits/sr4_cde"}
"""Page -> the recipe of which it shows a section."""


@pytest.mark.parametrize("block", to_run("yaml"), ids=place)
def test_sections_of_recipes(block, tmp_path):
    (tmp_path / "shown.yaml").write_text(block.text)
    base = BUILT_UPON[str(block.page.relative_to(ROOT))]
    build(["--config", base, "--config", str(tmp_path / "shown.yaml")])


@pytest.mark.parametrize("block", to_run("json"), ids=place)
def test_plans(block):
    assert Plan.from_json(block.text).efforts


TRAIN = (
    *("--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.limit_val_batches", "0"),
    *("--samples.every_n_steps", "0", "--trainer.enable_progress_bar", "false", "--checkpoint.every_n_steps", "1"),
)
OFTEN = {"digits/edm2": ("--posthoc.every_n_steps", "1")}
"""Recipe -> what else makes two steps enough."""
LEAST = {
    "--num": "8",
    "--seeds": "0",
    "--nfe": "6",
    "--levels": "2",
    "--images": "8",
    "--sigma-rel": "0.05,0.10",
    "--budget": "images=64",
}
"""Option -> the number that it has here, where it is given."""
JUDGING = {"compare", "evaluate", "sample", "study"}
FEW_STEPS = 11
"""As many steps of a sampler as are left to it."""


def shortened(words):
    """A command with less to do."""
    if words[0] == "train":
        return [*words, *TRAIN, *OFTEN.get(words[words.index("--config") + 1], ())]
    for option, value in LEAST.items():
        if option in words and (words[0], option) not in {("search", "--budget"), ("evaluate", "--images")}:
            words = replaced(words, option, value)
    if "--steps" in words and int(words[words.index("--steps") + 1]) > FEW_STEPS:
        words = replaced(words, "--steps", "3")
    samples = words[0] in JUDGING and not words[1].startswith("--")  # evaluate also judges images that are there
    return [*words, "--num", LEAST["--num"]] if samples and "--num" not in words else words


def replaced(words, option, value):
    """Words with another value of an option."""
    at = words.index(option) + 1
    return [*words[:at], value, *words[at + 1 :]]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """The folder in which the pages are followed one after another."""
    folder = tmp_path_factory.mktemp("pages")
    Image.new("L", (16, 16), 100).save(folder / "mine.png")
    return folder


def trained_recipes(words):
    """Recipes whose runs a command wants, and which another page trains."""
    for word in words:
        found = re.match(r"runs/(\w+/\w+)", word)
        if found and found[1] in list_recipes() and not Path(found[0]).exists():
            yield found[1]


@pytest.mark.parametrize("block", to_run("sh", "bash"), ids=place)
def test_commands(block, workplace, monkeypatch, capfd):
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(perceptual, "STEPS", 1)  # of the classifier, which need not know much
    monkeypatch.setattr(callbacks, "peak_flops", lambda trainer: 0.0)  # nothing is timed
    monkeypatch.setattr(TrainingModule, "training_macs", lambda self: None)  # nor counted
    for words in programs_of(block)[0]:
        needed = [] if words[0] == "train" else [["train", "--config", name] for name in trained_recipes(words)]
        for command in [*needed, words]:
            status = main(shortened(command))
            assert status == 0, f"{command}: {capfd.readouterr().err[-500:]}"


def build(words):
    """Build what a training would train, on no device."""
    with torch.device("meta"), without_pretrained_weights():
        cli = parse_recipe([*words, "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"])
    check_data(cli.model.name, cli.model.denoiser, cli.datamodule)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.reason and b.kind in {"sh", "bash"}], ids=place)
def test_commands_that_are_not_run_can_be_read(block, tmp_path, monkeypatch, untrained_codecs):
    ours, others = programs_of(block)
    seen = set()
    for words in ours:
        name, *rest = words
        if name == "train":
            kept = [word for word in rest if not word.isdigit()]  # seeds of a loop
            if str(kept) not in seen:
                build(rest)
            seen.add(str(kept))
            continue
        monkeypatch.chdir(tmp_path)
        for run in (word for word in rest if re.match(r"runs/|RUN", word)):  # parsing asks whether it is there
            Path(run).mkdir(parents=True, exist_ok=True)
        parser = Parser(prog=name)
        declare(parser, importlib.import_module(COMMANDS[name][0]))
        args = parser.parse_args(rest)
        if name == "compare":
            assert expand(args.recipes)
    for program, *rest in others:
        if program == "make":
            assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.M)
        elif program == "python":
            assert (ROOT / rest[0]).is_file() or rest == ["-m", "build"]
        else:
            assert (program, rest[0]) == ("pip", "install")
            extras = re.fullmatch(r"(?:denoisezoo|\.)(?:\[([\w,]+)\])?", rest[1])[1]
            assert set(extras.split(",") if extras else ()) <= {x for found in declared().values() for x in found}
