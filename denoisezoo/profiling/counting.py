"""Counting the multiply-adds of one call at the operator dispatcher: what ran is what is counted.

Convention: 1 MAC is one multiply-add, FLOPs are twice the MACs. Convolutions (grouped, depthwise, transposed), matrix
products and attention products are counted, forward and backward; bias, norms, softmax, activations, resampling and
look-ups are not. Zeros of the padding count as inputs, and causal attention counts as full attention. An operator that
does heavy arithmetic and has no formula is listed in `Counts.uncounted`, and the total is then a lower bound.

The formulas are torch's own (`torch.utils.flop_counter`) where they are right, completed by those in `_FORMULAS`.
`FlopCounterMode` itself is not used: its module tracker breaks the backward pass of adjoint solvers, it counts
a grouped convolution's weight gradient `groups` times over, and it cannot tell attention products from other ones.
Triton kernels that are launched outside a registered operator are invisible to any dispatcher.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from denoisezoo.errors import UserError

aten = torch.ops.aten

FLOPS_PER_MAC = 2


@dataclass(frozen=True)
class Counts:
    """Cost of one call, for its whole batch.

    Attributes:
        macs: Multiply-adds.
        macs_attention: The part of `macs` in the forward products QK^T and AV of scaled dot-product attention.
        uncounted: Heavy operators that have no formula, with their number of calls. If any, `macs` is a lower bound.
        by_module: Forward multiply-adds inside each module that was called, children included, by its path.
    """

    macs: int
    macs_attention: int
    uncounted: dict[str, int]
    by_module: dict[str, int]

    @property
    def flops(self) -> int:
        """Floating-point operations: 2 x `macs`."""
        return FLOPS_PER_MAC * self.macs

    def per_image(self, batch_size: int) -> Counts:
        """The share of one image of the batch.

        Raises:
            UserError: Some work is not done once per image, so that the share is no whole number.
        """
        numbers = [self.macs, self.macs_attention, *self.by_module.values()]
        if any(number % batch_size for number in numbers):
            raise UserError(
                f"{self.macs} MACs are no whole number for each of {batch_size} images", "price it with a batch of 1"
            )
        by_module = {path: macs // batch_size for path, macs in self.by_module.items()}
        return Counts(self.macs // batch_size, self.macs_attention // batch_size, self.uncounted, by_module)


def count(call: Callable[[], Any], root: nn.Module | None = None) -> Counts:
    """Run `call` once, on any device (meta too) and in any grad mode, and count its multiply-adds.

    Args:
        call: What to run. Its exceptions pass through; all global state is as before then, too.
        root: The module whose submodules `Counts.by_module` names, by their paths in it ("" is `root`). None names each
            outermost module by its class, and its submodules below that.

    Returns:
        Counts for the whole call.
    """
    with counting(root) as tally:
        call()
    return tally.counts()


@dataclass
class Tally:
    """Counts while they grow."""

    macs: int = 0
    macs_attention: int = 0
    uncounted: Counter[str] = field(default_factory=Counter)
    by_module: Counter[str] = field(default_factory=Counter)
    muted: bool = False
    """Inside an attention call that has been counted by its own shapes."""
    in_multi_head: bool = False
    """Inside `multi_head_attention_forward`, whose batched products are those of attention."""

    def add(self, macs: int, paths: set[str], attention: bool = False) -> None:
        """Count `macs` multiply-adds of an operator that ran inside the modules `paths`."""
        self.macs += macs
        self.macs_attention += macs * attention
        for path in paths:
            self.by_module[path] += macs

    def counts(self) -> Counts:
        """What has been counted up to now."""
        return Counts(self.macs, self.macs_attention, dict(self.uncounted), dict(self.by_module))


@contextlib.contextmanager
def counting(root: nn.Module | None = None) -> Iterator[Tally]:
    """Count everything that runs inside the `with` block; see `count`."""
    tally = Tally()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    # The fast path of nn.MultiheadAttention and nn.TransformerEncoderLayer is one operator without a formula.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ModulePaths(root) as modules, _Functions(tally, modules), _Dispatch(tally, modules):
            yield tally
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


class ModulePaths:
    """Knows inside which modules the program is, by hooks on all modules while the `with` block lasts."""

    def __init__(self, root: nn.Module | None) -> None:
        self.fixed = root is not None
        self.names: dict[nn.Module, str] = {} if root is None else {m: name for name, m in root.named_modules()}
        self.stack: list[str | None] = []

    def __enter__(self) -> ModulePaths:
        self.hooks = [
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def paths(self) -> set[str]:
        """Paths of the modules that are running now; each once, even where a module calls itself."""
        return {path for path in self.stack if path is not None}

    def _enter_module(self, module: nn.Module, _: Any) -> None:
        if module not in self.names and not self.fixed:
            self._name_tree(module)
        # Modules outside `root`, such as the function wrappers of ODE solvers, get no row of their own.
        self.stack.append(self.names.get(module))

    def _leave_module(self, *_: Any) -> None:
        self.stack.pop()

    def _name_tree(self, top: nn.Module) -> None:
        prefix = type(top).__name__
        while prefix in self.names.values():
            prefix += "'"
        for path, module in top.named_modules(prefix=prefix):
            self.names.setdefault(module, path)


class _Functions(TorchFunctionMode):
    """Sees attention calls before they are taken apart, so that its products are known on every device and backend."""

    def __init__(self, tally: Tally, modules: ModulePaths) -> None:
        super().__init__()
        self.tally, self.modules = tally, modules

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attention(func, args, kwargs)
        if func is F.multi_head_attention_forward:
            with _flag(self.tally, "in_multi_head"):
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _attention(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        if named["query"].is_nested:  # has no one shape; its kernels are counted at the dispatcher
            return func(*args, **kwargs)
        with _flag(self.tally, "muted"):
            out: Tensor = func(*args, **kwargs)
        macs = _attention_macs(named["query"].shape, named["key"].shape, named["value"].shape, out=out.shape)
        self.tally.add(macs, self.modules.paths(), attention=True)
        return out


class _Dispatch(TorchDispatchMode):
    """Counts every operator that reaches the dispatcher."""

    supports_higher_order_operators = True

    def __init__(self, tally: Tally, modules: ModulePaths) -> None:
        super().__init__()
        self.tally, self.modules = tally, modules

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = getattr(func, "_overloadpacket", func)  # a higher-order operator has no overloads
        known = operator in _FORMULAS or operator in flop_registry
        if not known and operator is not func and func.namespace != "prim":
            with self:  # in inference mode, composite operators such as matmul arrive whole
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if self.tally.muted:
            return out
        if known:
            self._count(operator, args, kwargs, out)
        elif is_heavy(str(operator)):
            self.tally.uncounted[str(operator)] += 1
        return out

    def _count(self, operator: Any, args: Any, kwargs: Any, out: Any) -> None:
        attention = operator in _ATTENTION or (self.tally.in_multi_head and operator in _BATCHED_PRODUCTS)
        self.tally.add(operator_macs(operator, args, kwargs, out), self.modules.paths(), attention)


@contextlib.contextmanager
def _flag(tally: Tally, name: str) -> Iterator[None]:
    before = getattr(tally, name)
    setattr(tally, name, True)
    try:
        yield
    finally:
        setattr(tally, name, before)


def operator_macs(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Multiply-adds of one operator, from the shapes of its arguments and result."""
    if operator in _FORMULAS:
        shapes = [arg.shape if isinstance(arg, Tensor) else arg for arg in args]
        return _FORMULAS[operator](*shapes, out=out.shape if isinstance(out, Tensor) else None)
    # torch counts a multiply-add as two; this is the only place that halves.
    return flop_registry[operator](*args, **kwargs, out_val=out) // FLOPS_PER_MAC


def _attention_macs(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, out: Sequence[int]) -> int:
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
    aten.scaled_dot_product_attention: _attention_macs,
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
        return _attention_macs(q, k, v, out=[*q[:-1], v[-1]])

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
