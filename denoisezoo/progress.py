"""Progress of long work, on standard error: a bar where somebody watches, else a line a minute."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

MINUTE = 60.0
"""Seconds between two lines."""


@contextlib.contextmanager
def progress_bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, or in a log a line a minute; yields the function that moves it to a number."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    if not console.is_interactive:  # where a bar would leave an empty line, before that of an error too
        yield minutely(text, total)
        return
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(text, total=total)
        yield lambda done: progress.update(task, completed=done)


def minutely(text: str, total: int) -> Callable[[int], None]:
    """What tells on standard error how far something is, once a minute; of several processes the first one does."""
    from denoisezoo.ranks import ranks  # where torch is loaded already

    told, first = time.monotonic(), ranks()[0] == 0

    def tell(done: int) -> None:
        nonlocal told
        if first and time.monotonic() - told >= MINUTE:
            told = time.monotonic()
            print(f"{text}: {done} of {total}", file=sys.stderr, flush=True)

    return tell
