"""Work in a process of its own: if it fails, or is ended for its memory, the rest goes on."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
from collections.abc import Callable
from typing import Any

from denoisezoo.errors import UserError

Rows = list[dict[str, Any]]
Work = Callable[[str, Any], Rows]


def in_own_process(work: Work, name: str, terms: Any) -> Rows:
    """The rows that `work(name, terms)` returns in a fresh process; on failure, one row `name, error`.

    Args:
        work: A function of a module.
        name: Its first argument, and the name in the row of a failure.
        terms: Its second; both are pickled.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_deliver, args=(work, name, terms, sender), daemon=True)
    process.start()
    sender.close()
    try:
        rows: Rows = receiver.recv()
    except EOFError:  # it ended without a word
        rows = []
    process.join()
    return rows or [{"name": name, "error": _ended(process.exitcode)}]


def _deliver(work: Work, name: str, terms: Any, sender: multiprocessing.connection.Connection) -> None:
    try:
        rows = work(name, terms)
    except UserError as error:
        rows = [{"name": name, "error": str(error)}]
    except Exception as error:
        rows = [{"name": name, "error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}]
    sender.send(rows)


def _ended(exitcode: int | None) -> str:
    if exitcode == -9:
        return "killed, most likely for lack of memory; use a smaller `batch_size`"
    return f"its process ended with status {exitcode}"
