"""The commands of the program and their parsers; a command is imported when it is asked for."""

from __future__ import annotations

import argparse
import importlib
from types import ModuleType
from typing import Any, NoReturn

from denoisezoo.errors import UserError, unknown

COMMANDS = {
    "list": ("denoisezoo.commands.list", "the zoo: name, family, input, params, MACs, efforts, paper"),
    "info": ("denoisezoo.commands.info", "one entry: variants, arguments with defaults, paper, costs per effort"),
    "train": ("denoisezoo.commands.train", "train a recipe; the same command again resumes"),
    "sample": ("denoisezoo.commands.sample", "images and a grid from a run folder or checkpoint"),
    "evaluate": ("denoisezoo.commands.evaluate", "metrics of a run, each with its card"),
    "profile": ("denoisezoo.commands.profile", "params, MACs, latency, memory; with a sampler, the whole trajectory"),
    "compare": ("denoisezoo.commands.compare", "train, sample, evaluate and price variants on equal terms; one report"),
    "search": ("denoisezoo.commands.search", "the best plan at a budget: how much of the network at each noise level"),
    "ema": ("denoisezoo.commands.ema", "averages of any length after training, swept against a metric"),
    "dashboard": ("denoisezoo.commands.dashboard", "lay out the W&B workspace of a project: a section per question"),
    "import": ("denoisezoo.commands.import_run", "a checkpoint of other code as a run: FORMAT:PATH"),
    "export": (
        "denoisezoo.commands.export",
        "a run for other code: safetensors, diffusers, onnx or pt2, with a model card",
    ),
    "study": ("denoisezoo.commands.study", "one question, one page: solvers, samplers, resolutions, memory, ..."),
    "claims": ("denoisezoo.commands.claims", "what the papers claim, what was measured here, and the verdict"),
    "completion": ("denoisezoo.commands.completion", "a script that completes commands in bash, zsh or fish"),
    "doctor": ("denoisezoo.commands.doctor", "what this machine and installation can do, and what is missing"),
}
"""Name -> (module, one-line help). A module has `add_arguments(parser)` and `run(args) -> status`, or, to parse its
own arguments, `run_raw(argv) -> status`."""

DESCRIPTION = "A zoo of efficient denoisers for diffusion models, compared on equal terms."
OPTIONS = {
    "-h, --help": "show this help; `denoisezoo COMMAND --help` shows that of a command",
    "--version": "show the version and the commit",
    "--debug": "show the traceback of an error",
}


class Parser(argparse.ArgumentParser):
    """Reports mistakes as `UserError` and names the nearest valid option or choice."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, refusing an unknown option by name."""
        known, extra = self.parse_known_args(args, namespace)
        if not extra:
            return known
        first = extra[0].partition("=")[0]
        if first.startswith("-"):
            raise unknown("option", first, self._option_string_actions, f"{self.prog} --help")
        raise UserError(f"unexpected argument {first!r}", f"see {self.prog} --help")

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and exiting."""
        raise UserError(message.removeprefix("argument "), f"see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            name = "/".join(action.option_strings) or action.metavar or action.dest
            raise unknown(f"{name}", value, map(str, action.choices))


def command_module(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(COMMANDS[name][0])


def declare(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    """Declare the arguments of a command, and those that all have."""
    module.add_arguments(parser)
    parser.add_argument(
        "--trust", metavar="PACKAGE,...", type=lambda text: text.split(","), default=[],
        help="packages whose code a run may name (none but denoisezoo)",
    )  # fmt: skip
