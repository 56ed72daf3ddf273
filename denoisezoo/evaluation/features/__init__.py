"""What images are compared by: feature extractors, by name in `FEATURES`; one file each, found by discovery."""

from __future__ import annotations

import re
from typing import Any

from denoisezoo.errors import UserError
from denoisezoo.evaluation.features.extractor import FEATURES, Features
from denoisezoo.evaluation.features.inception import INCEPTION_FILE, INCEPTION_VARIABLE, Inception, find_inception
from denoisezoo.registry import import_all, parse_options

__all__ = [
    "FEATURES",
    "INCEPTION_FILE",
    "INCEPTION_VARIABLE",
    "Features",
    "Inception",
    "create_each",
    "create_features",
    "find_inception",
]

import_all(__name__, __path__)


def create_features(spec: str, **options: Any) -> Features:
    """A feature extractor from its name and options: "pixels", "efflite0:size=64", "timm:resnet18,weights=FILE".

    Args:
        spec: The name, with options behind a colon.
        **options: More of them.

    Raises:
        UserError: There is no such name or option, or the weights are missing or damaged.
    """
    name, _, text = spec.partition(":")
    cls = FEATURES[name]
    first, _, rest = text.partition(",")
    if cls.leading and first and "=" not in first:
        options, text = {cls.leading: first} | options, rest
    if text and not cls.options:
        raise UserError(f"the features {name} have no options, and {text!r} is given", f"give {name} alone")
    return cls(**parse_options(text, cls.options, f"features {name}"), **options)


def create_each(spec: str) -> list[Features]:
    """The feature extractors of a specification that may name several: "pixels+efflite0:size=64".

    Raises:
        UserError: See `create_features`.
    """
    return [create_features(one) for one in re.split(r"\+(?=\w+(?:[:+]|$))", spec)]  # not within a path
