"""A zoo of efficient denoisers for diffusion models, compared on equal terms.

A *backbone* F is a raw network; a *process* says how an image is destroyed, u_t = A_t u_0 + R_t eps; a *denoiser*
D(u_t, t) ~ E[u_0 given u_t] is a backbone with the preconditioning for one process; a *sampler* walks the reverse
process by calling D; a *codec* is what is diffused in place of pixels; a *plan* says how much of the backbone to use at
each noise level; a *run* is a denoiser with its history.

    import denoisezoo as dz

    dz.list_denoisers("*digits*"), dz.info(name)                     # the zoo
    denoiser = dz.create_denoiser(name)                              # fresh weights
    run = dz.train("digits/ddpm", trainer={"max_steps": 400})        # or one that has learned something
    run = dz.fit(denoiser, objective, images, steps=400)             # without a recipe
    denoiser = dz.load("runs/digits/ddpm")
    denoiser.sample(16)                                              # a notebook shows the images
    dz.evaluate(run), dz.profile(name), dz.search(run, budget=0.5), dz.compare(recipes)
    dz.export(run, "out", format="onnx")                             # for other code

Parts to compose are in `dz.diffusion` (processes, preconditionings, codecs, objectives, samplers), `dz.archs`,
`dz.data` and `dz.plans`. Results print as tables, give `.rows()` and `.to_pandas()`, and show themselves in a notebook.
A mistake of the caller is a `dz.UserError`, which says what is wrong and what to do.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from denoisezoo import archs, data, diffusion, plans
    from denoisezoo.api import compare, ema, evaluate, export, fit, load, profile, search, train
    from denoisezoo.archs import Backbone, BackboneConfig, Cost, Family, ImageSpec, create_backbone, list_denoisers
    from denoisezoo.archs.info import info
    from denoisezoo.data import ImageData
    from denoisezoo.diffusion import (
        Codec,
        Denoiser,
        Given,
        Objective,
        Preconditioning,
        Prediction,
        Process,
        Sampler,
        create_denoiser,
    )
    from denoisezoo.diffusion.generate import Samples
    from denoisezoo.errors import UserError
    from denoisezoo.plans import Plan
    from denoisezoo.runs.run import Run

__all__ = [
    "Backbone",
    "BackboneConfig",
    "Codec",
    "Cost",
    "Denoiser",
    "Family",
    "Given",
    "ImageData",
    "ImageSpec",
    "Objective",
    "Plan",
    "Preconditioning",
    "Prediction",
    "Process",
    "Run",
    "Sampler",
    "Samples",
    "UserError",
    "__version__",
    "archs",
    "compare",
    "create_backbone",
    "create_denoiser",
    "data",
    "diffusion",
    "ema",
    "evaluate",
    "export",
    "fit",
    "info",
    "list_denoisers",
    "load",
    "plans",
    "profile",
    "search",
    "train",
]

_HOMES = {
    "api": "ema evaluate export fit load profile",
    "archs": "Backbone BackboneConfig Cost Family ImageSpec create_backbone list_denoisers",
    "archs.info": "info",
    "data": "ImageData",
    "diffusion": "Codec Denoiser Given Objective Prediction Preconditioning Process Sampler create_denoiser",
    "diffusion.generate": "Samples",
    "errors": "UserError",
    "plans": "Plan",
    "runs.run": "Run",
}
"""Module -> what of it is public here. It is imported on first use: `denoisezoo --help` must not wait for torch."""
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Import on first use what is public, and the packages that hold more."""
    if name in _HOME:
        return getattr(importlib.import_module(f"denoisezoo.{_HOME[name]}"), name)
    if name in __all__:  # a package; three of them are functions, too (see `callable_package`)
        return importlib.import_module(f"denoisezoo.{name}")
    raise AttributeError(f"module 'denoisezoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


def api_function(name: str) -> Callable[..., Any]:
    """The function of the public API that has the name of a package."""
    function: Callable[..., Any] = getattr(importlib.import_module("denoisezoo.api"), name)
    return function
