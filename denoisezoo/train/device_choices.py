"""What a run leaves open until it is known where it trains: compiler, layout of memory, arithmetic of float32.

On a CPU nothing is chosen but what the recipe says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from denoisezoo.archs import compile_network

LEFT_OPEN = {"compile": False, "channels_last": True}
"""Arguments of the module that may be null -> what they are then on a CPU, and were everywhere in earlier versions."""
COMPILED_FROM = 2000
"""Steps from which compilation pays: it takes as long as some hundreds to thousands of them."""
NHWC_NORMS = (2, 15)
"""First version of torch whose group norms have kernels for channels-last images on CUDA; those before make copies."""


def with_defaults(model: Mapping[str, Any]) -> dict[str, Any]:
    """The section `model` of a recipe with `LEFT_OPEN` in place of what is null, to tell whether two are of one run."""
    return {**model, **{key: value if model.get(key) is None else model[key] for key, value in LEFT_OPEN.items()}}


def channels_last_pays(compiled: bool, version: str = torch.__version__) -> bool:
    """Whether convolutional networks are faster in channels-last layout on CUDA.

    Convolutions are, whose matrix units want it. Compiled norms are made for any layout; those of torch are not.

    Args:
        compiled: Whether the compiler makes the kernels.
        version: Of torch.
    """
    major, minor = version.split(".")[:2]
    return compiled or (int(major), int(minor)) >= NHWC_NORMS


def choose_for_device(trainer: Any, module: Any) -> None:
    """Choose what the recipe leaves open (`model.compile` and `model.channels_last` null) for a GPU.

    The network is compiled, except for short runs and under strategies that divide it.

    Args:
        trainer: Its strategy knows the device.
        module: A `TrainingModule`, before anything is copied from it.
    """
    if trainer.strategy.root_device.type != "cuda":
        return
    backbone = module.denoiser.backbone
    short = 0 <= trainer.max_steps < COMPILED_FROM
    if module.compiles is None and not short and not isinstance(trainer.strategy, ModelParallelStrategy):
        compile_network(backbone)
    if module.channels_last is None and not channels_last_pays(backbone._compiled_call_impl is not None):
        backbone.to(memory_format=torch.contiguous_format)


@contextlib.contextmanager
def fast_arithmetic(trainer: Any) -> Iterator[None]:
    """Within it a GPU computes what stays float32 fast: products take ten bits of mantissa (TF32), and convolutions are
    tried out for the fastest kernels, unless torch was told to be deterministic.

    Args:
        trainer: Its strategy knows the device.
    """
    if trainer.strategy.root_device.type != "cuda":
        yield
        return
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("high" if precision == "highest" else precision)
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = benchmark
