"""Mistakes of the user, each told in one line: what is wrong, and what to do."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator


class UserError(ValueError):
    """A mistake that the user can mend; the command line prints it as one line and exits with status 2.

    Args:
        what: What is wrong, naming the offending value.
        cure: What to do about it.
    """

    def __init__(self, what: str, cure: str) -> None:
        self.what, self.cure = what, cure
        super().__init__(f"{what}; {cure}")


class ComputationError(UserError):
    """A computation that cannot go on with these numbers, e.g. an ODE that has become too stiff; see `UserError`."""


class UncountableError(UserError):
    """A cost that cannot be counted without computing with real data, e.g. of an adaptive solver; see `UserError`."""


@contextlib.contextmanager
def rewording(change: Callable[[str], str]) -> Iterator[None]:
    """Within it, mistakes are told in other words: what is wrong and what to do, each as `change` puts it.

    Raises:
        UserError: The one that was raised, in those words.
    """
    try:
        yield
    except UserError as error:
        error.what, error.cure = change(error.what), change(error.cure)
        error.args = (f"{error.what}; {error.cure}",)
        raise


def nearest(name: str, choices: Iterable[str], n: int = 3) -> list[str]:
    """The `n` choices that look most like `name`, best first; empty when nothing is near."""
    by_lower = {choice.lower(): choice for choice in choices}
    return [by_lower[key] for key in difflib.get_close_matches(name.lower(), list(by_lower), n=n, cutoff=0.4)]


def unknown(kind: str, name: object, choices: Iterable[str], see: str | None = None) -> UserError:
    """The error for a name that is not among `choices`: it offers the nearest ones, else some of them all.

    Args:
        kind: What the name should have been, e.g. "sampler".
        name: The name that was given.
        choices: The valid names.
        see: A command that lists all choices.
    """
    choices = sorted(choices)
    near = nearest(str(name), choices) or choices[:8]
    cure = f"did you mean {' or '.join(near)}?" if near else "there is none to choose from"
    return UserError(f"unknown {kind} {str(name)!r}", cure + (f" ({see} shows all)" if see else ""))
