"""Forward-mode differentiation (Jacobian-vector products) of networks: which kernels can be pushed forward."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.nn.attention import SDPBackend, sdpa_kernel


def has_tangent(*tensors: Tensor | None) -> bool:
    """Whether any of them carries a tangent, as inputs do within `torch.func.jvp`."""
    return any(tensor is not None and unpack_dual(tensor).tangent is not None for tensor in tensors)


def attention_for(*inputs: Tensor | None) -> contextlib.AbstractContextManager[Any]:
    """A context to call a network in: with attention by plain products where its inputs carry tangents.

    The fused kernels have no forward-mode derivative, on CPU and GPU alike; elsewhere they stay in use.
    """
    return sdpa_kernel(SDPBackend.MATH) if has_tangent(*inputs) else contextlib.nullcontext()


def pushed_forward(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], along: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """The value of a function and its derivative along tangents of its inputs, by `torch.func.jvp`.

    Without torch's notice about its own use of `torch.jit.script`, which comes at the first time.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        value, derivative = torch.func.jvp(function, inputs, along)[:2]
    return value, derivative
