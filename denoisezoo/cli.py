"""The console program `denoisezoo`. It imports a command only when that is asked for, so `--help` does not wait."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from denoisezoo import __version__
from denoisezoo.allocator import keep_freed_memory
from denoisezoo.commands.options import with_options
from denoisezoo.errors import UserError, unknown
from denoisezoo.plugins import trusting
from denoisezoo.version import version_text

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
        "the weights of a run as one file to publish, with card and configuration",
    ),
    "study": ("denoisezoo.commands.study", "one question, one page: solvers, samplers, resolutions, memory, ..."),
    "claims": ("denoisezoo.commands.claims", "what the papers claim, what was measured here, and the verdict"),
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

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 1, 2, 130, 141


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status: 0 success, 2 a mistake of the user, 1 any other error."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be no UTF-8, or terminals less than that
            sys.stdout.reconfigure(errors="backslashreplace")
        command = dispatch([word for word in words if word != "--debug"])
        status = int(command())
        sys.stdout.flush()  # a reader that has gone shows here, not at the interpreter's exit
        return status
    except SystemExit as error:  # argparse after --help or --version
        return error.code if isinstance(error.code, int) else EXIT_ERROR if error.code else 0
    except BrokenPipeError:
        silence_stdout()
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return fail("interrupted", EXIT_INTERRUPTED, debug)
    except UserError as error:
        return fail(with_options(str(error)), EXIT_USAGE, debug)
    except ModuleNotFoundError as error:
        return fail(f"the package {error.name} is missing; install it, or see denoisezoo doctor", EXIT_ERROR, debug)
    except OSError as error:
        place = f": {error.filename}" if error.filename is not None else ""
        return fail(
            f"{error.strerror or error}{place}; check the path, its permissions and the disk", EXIT_USAGE, debug
        )
    except Exception as error:
        what = f"unexpected {type(error).__name__}: {error}".rstrip(": ")
        return fail(f"{what}; run again with --debug to see where, and report it", EXIT_ERROR, debug)


def dispatch(words: list[str]) -> Callable[[], int]:
    """The command that the words name, ready to be called."""
    if not words or words[0] in {"-h", "--help"}:
        print(overview())
        return int
    name, *rest = words
    if name == "--version":
        print(f"denoisezoo {version_text(__version__)}")
        return int
    if name.startswith("-"):
        raise unknown("option", name, ["--help", "--version", "--debug"], "denoisezoo --help")
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS, "denoisezoo --help")
    keep_freed_memory()
    module = importlib.import_module(COMMANDS[name][0])
    if hasattr(module, "run_raw"):
        return partial(module.run_raw, rest)
    parser = Parser(prog=f"denoisezoo {name}", description=(module.__doc__ or "").strip())
    module.add_arguments(parser)
    parser.add_argument(
        "--trust", metavar="PACKAGE,...", type=lambda text: text.split(","), default=[],
        help="packages whose code a run may name (none but denoisezoo)",
    )  # fmt: skip
    args = parser.parse_args(rest)
    return trusting(args.trust)(partial(module.run, args))


def overview() -> str:
    """The text of `denoisezoo --help`."""
    width = max(map(len, [*COMMANDS, *OPTIONS])) + 2
    commands = [f"  {name:{width}}{text}" for name, (_, text) in COMMANDS.items()]
    options = [f"  {name:{width}}{text}" for name, text in OPTIONS.items()]
    usage = "usage: denoisezoo [--debug] COMMAND [ARGUMENT ...]"
    return "\n".join([usage, "", DESCRIPTION, "", "commands:", *commands, "", "options:", *options])


def fail(message: str, status: int, debug: bool) -> int:
    """Print the one line of an error, after its traceback if that was asked for, and return the exit status."""
    if debug:
        traceback.print_exc()
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(f"error: {' '.join(message.split())}\n")  # at once: other processes write, too
    return status


def silence_stdout() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not complain of the broken pipe at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
