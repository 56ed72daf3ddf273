"""What each operator costs, from the shapes of its arguments and result.

The formulas are torch's own (`torch.utils.flop_counter`) where they are right, completed by those in `_FORMULAS`. A
library that registers a formula for its operator with `torch.utils.flop_counter.register_flop_formula` is counted, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten

FLOPS_PER_MAC = 2


def has_formula(operator: Any) -> bool:
    """Whether the multiply-adds of an operator are known."""
    return operator in _FORMULAS or operator in flop_registry


def is_attention(operator: Any) -> bool:
    """Whether an operator is a fused kernel of attention."""
    return operator in _ATTENTION


def is_batched_product(operator: Any) -> bool:
    """Whether an operator multiplies batches of matrices."""
    return operator in _BATCHED_PRODUCTS


def operator_macs(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Multiply-adds of one operator, from the shapes of its arguments and result."""
    if operator in _FORMULAS:
        shapes = [arg.shape if isinstance(arg, Tensor) else arg for arg in args]
        return _FORMULAS[operator](*shapes, out=out.shape if isinstance(out, Tensor) else None)
    # torch counts a multiply-add as two; this is the only place that halves.
    return flop_registry[operator](*args, **kwargs, out_val=out) // FLOPS_PER_MAC


def moved_bytes(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Bytes that an operator reads and writes; none for a view of memory, or for memory that is only set aside."""
    if getattr(func, "is_view", False) or "empty" in str(func):
        return 0
    tensors = [leaf for leaf in tree_leaves((args, dict(kwargs), out)) if isinstance(leaf, Tensor)]
    return sum(map(tensor_bytes, tensors))


def new_bytes(func: Any, out: Any) -> int:
    """Bytes of the tensors that an operator makes; none for a view, or for work in place."""
    if getattr(func, "is_view", False) or getattr(getattr(func, "_schema", None), "is_mutable", False):
        return 0
    return sum(tensor_bytes(leaf) for leaf in tree_leaves(out) if isinstance(leaf, Tensor))


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of the elements of a tensor; those that an expanded tensor repeats are there once."""
    if tensor.is_nested or tensor.layout is not torch.strided:
        return 0
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(size for size, stride in sizes if stride or not size) * tensor.element_size()


def diff_pruning_macs(operator: Any, args: Sequence[Any], macs: int, out: Any) -> int:
    """Diff-Pruning's price of an operator that has `macs` multiply-adds; see `Counts.macs_diff_pruning`."""
    if operator is aten.native_group_norm:
        return int(2 * args[0].numel())
    return macs + bias_additions(operator, args, out) if operator in _LAYERS else 0


def bias_additions(operator: Any, args: Sequence[Any], out: Any) -> int:
    """Additions of the bias: one for each element of the output."""
    has_bias = operator is aten.addmm or (operator is not aten.mm and len(args) > 2 and args[2] is not None)
    return out.numel() if has_bias and isinstance(out, Tensor) else 0


def attention_macs(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, out: Sequence[int]) -> int:
    """QK^T and AV for q (..., L, E), k (..., S, E), v (..., S, V), out (..., L, V); q may have more heads than k."""
    return math.prod(out[:-1]) * k[-2] * (q[-1] + v[-1])


def _convolution_backward_macs(
    grad: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, out: Any
) -> int:
    """Gradients of input and weight each take as many products as the convolution itself, grouped or not."""
    transposed, mask = rest[4], rest[7]
    positions = math.prod((x if transposed else grad)[2:])
    return x[0] * positions * math.prod(weight) * (mask[0] + mask[1])


def _linear_macs(x: Sequence[int], weight: Sequence[int], *_: Any, out: Any) -> int:
    return math.prod(x) * math.prod(weight[:-1])


def _vector_macs(a: Sequence[int], *_: Any, out: Any) -> int:
    return math.prod(a)


def _added_vector_macs(_added: Sequence[int], a: Sequence[int], *_: Any, out: Any) -> int:
    return math.prod(a)


def _added_product_macs(_added: Sequence[int], a: Sequence[int], b: Sequence[int], *_: Any, out: Any) -> int:
    return math.prod(a) * b[-1]


_FORMULAS: dict[Any, Callable[..., int]] = {
    aten.scaled_dot_product_attention: attention_macs,
    aten.convolution_backward: _convolution_backward_macs,
    aten.linear: _linear_macs,
    aten.mv: _vector_macs,
    aten.dot: _vector_macs,
    aten.vdot: _vector_macs,
    aten.addmv: _added_vector_macs,
    aten.addmv_: _added_vector_macs,
    aten.addmm_: _added_product_macs,
    aten.addbmm: _added_product_macs,
    aten.addbmm_: _added_product_macs,
    aten.baddbmm_: _added_product_macs,
}


def _fused_attention() -> dict[Any, Callable[..., int]]:
    """Forward kernels of attention, as far as this torch has them; (B, heads, tokens, channels) each."""
    names = (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable",
        "_scaled_dot_product_attention_math_for_mps",
    )

    def macs(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, out: Any) -> int:
        return attention_macs(q, k, v, out=[*q[:-1], v[-1]])

    return {getattr(aten, name): macs for name in names if hasattr(aten, name)}


# Older versions of torch have no formula for attention on the CPU, and count 0 without a word.
_FORMULAS |= _fused_attention()

_ATTENTION = {
    *_fused_attention(),
    aten.scaled_dot_product_attention,
    aten._flash_attention_forward,
    aten._efficient_attention_forward,
    torch.ops.higher_order.flex_attention,
}
_BATCHED_PRODUCTS = {aten.bmm, aten.baddbmm}
_LAYERS = {aten.convolution, aten._convolution, aten.addmm, aten.mm, aten.linear}
"""Operators that convolutions and linear layers become."""

_HEAVY = re.compile(
    r"(?:^|_)(?:(?:b|add|badd|addb|baddb)?mm|(?:add)?mv|v?dot|(?:tri|bi)?linear|attention|transformer|multi_head|grid"
    r"|[cp]dist|lstm|gru|rnn|cholesky|inverse|solve|svd|qr|lu|eigh?|det|matmul\w*|conv(?:olution|[123]d?|_)\w*"
    r"|fft\w*|linalg(?!_vector_norm)\w*)(?:_|$)"
)
_LIGHT_NAMESPACES = frozenset({"prim", "prims", "profiler", "c10d", "_c10d_functional", "rngprims", "streams"})


def is_heavy(operator: str) -> bool:
    """Whether an operator, e.g. "aten.grid_sampler_2d", does more than a few operations per element.

    torch's own operators are judged by the words of their name; an operator of any other library may do anything and
    is taken as heavy.
    """
    namespace, _, name = operator.rpartition(".")
    if namespace != "aten":
        return namespace not in _LIGHT_NAMESPACES
    return _HEAVY.search(name) is not None
