"""Code of other packages: registered through entry points, named in recipes, and run for a file only where trusted."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from functools import cache
from types import ModuleType

from denoisezoo.errors import UserError

GROUP = "denoisezoo.plugins"
"""Entry points of this group are imported before a name is called unknown, or all names are listed."""

_trusted: ContextVar[tuple[str, ...]] = ContextVar("trusted", default=())


@contextlib.contextmanager
def trusting(packages: Iterable[str]) -> Iterator[None]:
    """Let files name classes of some packages, besides those that are trusted already.

    Args:
        packages: Names such as "their"; with one, all modules within it are trusted.
    """
    token = _trusted.set((*_trusted.get(), *packages))
    try:
        yield
    finally:
        _trusted.reset(token)


def import_trusted(module: str, what: str) -> ModuleType:
    """Import a module that a file names.

    Args:
        module: Dotted name.
        what: What the file wants of it, as the error tells it.

    Raises:
        UserError: Its package is not trusted, in which case nothing has been imported, or it cannot be imported.
    """
    check_trusted(module, what)
    return import_named(module, what)


def check_trusted(module: str, what: str) -> None:
    """Refuse a module that a file names, if its package is neither this one nor trusted; see `import_trusted`.

    Raises:
        UserError: It is not.
    """
    package = module.partition(".")[0]
    if package not in (__name__.partition(".")[0], *_trusted.get()):
        raise UserError(
            f"{what}, of the package {package}, whose code is not trusted",
            f"if it is yours, or you have read it, trust it: `trust={package}`",
        )


def import_named(module: str, what: str) -> ModuleType:
    """Import a module that the user has named.

    Raises:
        UserError: It is not there, or fails.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the code of others does
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")
        raise UserError(f"{what}, which cannot be imported ({reason})", "install the package, or mend it") from error


@cache
def load_plugins() -> None:
    """Import what installed packages have registered as entry points of `GROUP`, once.

    Raises:
        UserError: One of them fails.
    """
    for entry in importlib.metadata.entry_points(group=GROUP):
        import_named(entry.module, f"the plugin {entry.name} is {entry.value}")
