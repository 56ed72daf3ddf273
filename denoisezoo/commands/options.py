"""How the command line spells the arguments that messages of the library name."""

from __future__ import annotations

import re

_ARGUMENT = re.compile(r"`([a-z_][a-z0-9_.]*)(?:=([^`\s]+))?`")


def with_options(text: str) -> str:
    """A message with options for arguments: --batch-size for `batch_size`, and --data.seed 1 for `data.seed=1`.

    The library names an argument between backticks, with its value behind a sign of equality; what else stands between
    them, a command for instance, has a space in it or a capital, and stays. Keys of recipes, which have a dot, are
    options of `train` with the underscores that they have.
    """

    def option(argument: re.Match[str]) -> str:
        name, value = argument.groups()
        spelled = name if "." in name else name.replace("_", "-")
        return f"--{spelled}" if value is None else f"--{spelled} {value}"

    return _ARGUMENT.sub(option, text)
