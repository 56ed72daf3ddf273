"""Forward-mode differentiation (Jacobian-vector products) of networks: which kernels can be pushed forward."""

from __future__ import annotations

import contextlib
from typing import Any

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
