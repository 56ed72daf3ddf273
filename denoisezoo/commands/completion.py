"""A script for the shell that completes commands, options, and names of networks, recipes, samplers and classes.

bash: denoisezoo completion bash > ~/.local/share/bash-completion/completions/denoisezoo
zsh:  denoisezoo completion zsh > ~/.zfunc/_denoisezoo, with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc
fish: denoisezoo completion fish > ~/.config/fish/completions/denoisezoo.fish

Names are those of today: write it again after an upgrade.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
from collections.abc import Callable, Iterable

from denoisezoo.commands.arguments import Parser, declare
from denoisezoo.commands.program import COMMANDS, DESCRIPTION, OPTIONS

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    script = shtab.complete(whole_parser(), args.shell)
    if args.shell == "zsh":  # its form for several arguments completes the first alone
        script = script.replace('"(*):', '"*:')
    print(script)
    return 0


def whole_parser() -> Parser:
    """One parser of all commands, whose arguments know what completes them."""
    program = Parser(prog="denoisezoo", description=DESCRIPTION, add_help=False)
    for names, text in OPTIONS.items():
        program.add_argument(*names.split(", "), action="store_true", help=text)
    commands = program.add_subparsers()
    known = _known_words()
    for name, (path, text) in COMMANDS.items():
        parser = commands.add_parser(name, help=text)
        module = importlib.import_module(path)
        if hasattr(module, "run_raw"):
            module.add_completed_arguments(parser)
        else:
            declare(parser, module)
        for action in parser._actions:
            _complete(action, name, known)
    return program


FILES = {"RUN", "PATH", "FILE", "DIR", "out", "storage", "trainer.default_root_dir"}
"""Metavariables, or destinations of arguments without one, that stand for files."""
WORDS = {
    "NAME": "network",
    "NAME_OR_RUN": "network or file",
    "RUN_OR_NAME": "network or file",
    "RECIPE": "recipe or file",
    "config": "recipe or file",
    "family": "family",
    "sampler": "sampler",
    "samplers": "sampler",
    "process": "process",
    "plan": "plan or file",
    "list pattern": "network",
    "claims pattern": "claim",
}
"""The same, or a command and a destination, -> what kind of words they stand for."""


def _known_words() -> dict[str, Callable[[], Iterable[str]]]:
    """Kind of words -> all of them."""
    from denoisezoo.archs import list_denoisers, list_families
    from denoisezoo.compare.claims import claims
    from denoisezoo.diffusion import PROCESSES, SAMPLERS
    from denoisezoo.plans.presets import PRESETS
    from denoisezoo.train.recipe_names import list_recipes

    return {
        "network": list_denoisers,
        "family": list_families,
        "recipe": list_recipes,
        "sampler": lambda: SAMPLERS,
        "process": lambda: PROCESSES,
        "plan": lambda: PRESETS,
        "claim": lambda: [claim.name for claim in claims().claims],
    }


def _complete(action: argparse.Action, command: str, known: dict[str, Callable[[], Iterable[str]]]) -> None:
    """Say what completes an argument, where something does."""
    import shtab

    if action.choices:
        return
    names = [f"{command} {action.dest}", str(action.metavar or action.dest), action.dest]
    kind = next((WORDS[name] for name in names if name in WORDS), "")
    word, _, file = kind.partition(" or ")
    if kind and not file:
        action.choices = sorted(known[word]())
    elif kind:
        action.complete = _words_or_files(word, sorted(known[word]()))  # type: ignore[attr-defined]
    elif any(name in FILES for name in names):
        action.complete = shtab.FILE  # type: ignore[attr-defined]


def _words_or_files(kind: str, words: list[str]) -> dict[str, object]:
    """What shtab takes for "one of these words, or a file"."""
    function, text = f"_denoisezoo_{kind}_or_file", shlex.join(words)
    return {
        "bash": function,
        "zsh": function,
        "fish": f"({function})",
        "preamble": {
            "bash": f'{function}() {{\n  compgen -W "{text}" -- "$1"\n  compgen -f -- "$1"\n}}',
            "zsh": f"{function}() {{\n  _alternative 'names:{kind}:({text})' 'files:file:_files'\n}}",
            "fish": f"function {function}\n  printf '%s\\n' {text}\n  __fish_complete_path (commandline -ct)\nend",
        },
    }
