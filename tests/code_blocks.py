"""The blocks of code on pages of the documentation, and the commands in them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

NOT_RUN = re.compile(r"<!-- not run: (\S.*?) -->")
FENCE = re.compile(r"```(\w*)\n(.*?)^```", re.S | re.M)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: Where it is.
        line: Its first line.
        kind: The language of a fence; "sh" where it is indented.
        text: Its text.
        reason: Why it is not run; None if it is.
    """

    page: Path
    line: int
    kind: str
    text: str
    reason: str | None


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page, fenced and indented, in order."""
    text = page.read_text(encoding="utf-8")
    found = {match.start(): (match[1], match[2]) for match in FENCE.finditer(text)}
    blank = FENCE.sub(lambda match: re.sub(r"[^\n]", "-", match[0]), text)
    for match in re.finditer(r"(?<=\n\n)(    .*\n(?:    .*\n|\n(?=    ))*)", blank):
        found[match.start()] = ("sh", re.sub(r"^    ", "", match[0], flags=re.M))
    blocks = []
    for start, (kind, code) in sorted(found.items()):
        above = text[:start].rstrip().rpartition("\n")[2]
        reason = NOT_RUN.fullmatch(above)
        blocks.append(Block(page, text.count("\n", 0, start) + 1, kind, code, reason[1] if reason else None))
    return blocks


COLLECT = """
set -f
exec 3>&1
command_not_found_handle() { printf '%s\\0' "$@" END >&3; }
source() { :; }
"""
"""Before the commands of a block: nothing that it names is found, and so all of it is told instead of run."""


def commands_of(text: str) -> list[list[str]]:
    """Words of each command of a block, as bash makes them: loops, braces and comments included; nothing is run."""
    script = COLLECT + text
    with tempfile.TemporaryDirectory() as folder:  # for what a block writes by ">"
        words = [str(shutil.which("bash")), "-c", script]
        place = {"PATH": "/nowhere", "HOME": folder}
        done = subprocess.run(words, cwd=folder, env=place, capture_output=True, text=True)
    assert not done.stderr, done.stderr
    commands: list[list[str]] = [[]]
    for word in done.stdout.split("\0")[:-1]:
        if word == "END":
            commands.append([])
        else:
            commands[-1].append(word)
    return commands[:-1]
