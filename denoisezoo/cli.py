"""The console program `denoisezoo`. It imports a command only when that is asked for, so `--help` does not wait."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial

from denoisezoo import __version__
from denoisezoo.allocator import keep_freed_memory
from denoisezoo.commands.arguments import Parser, declare
from denoisezoo.commands.options import with_options
from denoisezoo.commands.program import COMMANDS, DESCRIPTION, OPTIONS
from denoisezoo.errors import UserError, unknown
from denoisezoo.extras import how_to_install
from denoisezoo.plugins import trusting
from denoisezoo.version import version_text

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 1, 2, 130, 141


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
        cure = how_to_install(error.name or "")
        return fail(f"the package {error.name} is missing; {cure}, or see denoisezoo doctor", EXIT_ERROR, debug)
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
    declare(parser, module)
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
