"""What the package declares that it needs: always, and in the extras that bring what single features need."""

from __future__ import annotations

import importlib.metadata
import re

DEVELOPERS = ("bench", "docs", "test")
"""Extras that no feature of the package needs."""
MODULES = {"PIL": "pillow", "pynvml": "nvidia-ml-py", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""Modules that are not called as their packages are."""


def declared() -> dict[str, tuple[str, ...]]:
    """Package -> extras that bring it, those of features first; empty for what is always installed.

    Packages are in lower case with hyphens. The extra `all`, which brings what others do, is not among these.
    """
    found: dict[str, set[str]] = {}
    always = set()
    for requirement in importlib.metadata.requires("denoisezoo") or []:
        package = _normal(re.split(r"[\s\[<>=!~;(]", requirement, maxsplit=1)[0])
        extra = re.search(r"extra\s*==\s*[\"']([^\"']+)", requirement)
        found.setdefault(package, set()).update({extra[1]} - {"all"} if extra else ())
        always |= set() if extra else {package}
    return {
        package: () if package in always else tuple(sorted(extras, key=lambda extra: (extra in DEVELOPERS, extra)))
        for package, extras in found.items()
    }


def package_of(module: str) -> str:
    """The package that a module comes with, as far as the package's own imports go."""
    top = module.partition(".")[0]
    return MODULES.get(top, _normal(top))


def how_to_install(module: str) -> str:
    """What to do where a module cannot be imported: the extra that brings it, if one does."""
    try:
        extras = declared().get(package_of(module))
    except importlib.metadata.PackageNotFoundError:  # run from a tree that is not installed
        extras = None
    if extras:
        return f"pip install 'denoisezoo[{extras[0]}]'"
    return "install it" if extras is None else "install denoisezoo again"  # what else it may be, its owner knows


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
