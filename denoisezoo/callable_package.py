"""Packages that are functions, too: `denoisezoo.train` holds the trainer, and `denoisezoo.train(...)` trains.

Three verbs of the public API, train, search and compare, are names of packages as well. Python binds a package to its
name in the parent as soon as anything in it is imported, so that a function of that name would be there or not by what
was imported before. So the package itself can be called, which a module can if it is of a class that says how.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package that passes a call on to the function of the public API that has its name."""

    @property
    def _function(self) -> Callable[..., Any]:
        import denoisezoo  # only when it is called: the packages are imported by it, and import no heavier ones

        return denoisezoo.api_function(self.__name__.rpartition(".")[2])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See the function."""
        return self._function(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        """What `inspect.signature` and notebooks show."""
        return inspect.signature(self._function)


# Set from outside: in the body of the class it would be the documentation of the class itself.
CallablePackage.__doc__ = property(lambda self: self._function.__doc__)  # type: ignore[assignment]


def make_callable(package: str) -> None:
    """Let a package be called; it does so for itself, `make_callable(__name__)`."""
    sys.modules[package].__class__ = CallablePackage
