"""Counting the multiply-adds of one call at the operator dispatcher: what ran is what is counted.

Convention: 1 MAC is one multiply-add, FLOPs are twice the MACs. Convolutions (grouped, depthwise, transposed), matrix
products and attention products are counted, forward and backward; bias, norms, softmax, activations, resampling and
look-ups are not. Zeros of the padding count as inputs, and causal attention counts as full attention. An operator that
does heavy arithmetic and has no formula is listed in `Counts.uncounted`, and the total is then a lower bound.

`FlopCounterMode` itself is not used: its module tracker breaks the backward pass of adjoint solvers, it counts
a grouped convolution's weight gradient `groups` times over, and it cannot tell attention products from other ones.
Triton kernels that are launched outside a registered operator are invisible to any dispatcher. A compiled network is
counted as it was written: its kernels are private to the compiler, the arithmetic is the same.

Everything else, norms, activations, sums, copies, is given as the bytes that it reads and writes when each operator
runs by itself, which is what it costs; a compiler that fuses operators moves fewer.
"""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from denoisezoo.errors import UserError
from denoisezoo.nn.forward_mode import has_tangent
from denoisezoo.profiling import meta_outputs
from denoisezoo.profiling.formulas import (
    FLOPS_PER_MAC,
    attention_macs,
    diff_pruning_macs,
    has_formula,
    is_attention,
    is_batched_product,
    is_heavy,
    moved_bytes,
    new_bytes,
    operator_macs,
    tensor_bytes,
)

ATTENTION = "attention"
"""Key of attention products in `Counts.by_operator`, whatever kernel computes them."""


@dataclass(frozen=True)
class Counts:
    """Cost of one call, for its whole batch.

    Attributes:
        macs: Multiply-adds.
        macs_attention: The part of `macs` in the forward products QK^T and AV of scaled dot-product attention.
        uncounted: Heavy operators that have no formula, with their number of calls. If any, `macs` is a lower bound.
        by_module: Forward multiply-adds inside each module that was called, children included, by its path.
        by_operator: `macs` by operator; attention products stand under `ATTENTION`.
        macs_diff_pruning: The same call by the rule of Diff-Pruning (Fang et al. 2023, arXiv 2305.10924; its code): one
            for each multiply-add of convolutions and linear layers, and for each addition of a bias in them; two for
            each element that enters a group norm; none for attention products.
        bytes_products: Bytes read and written by the operators that `macs` counts.
        bytes_elementwise: Bytes read and written by all others: norms, activations, sums, copies, resampling.
        activation_bytes: Bytes of new tensors that are made inside each module, children included, by its path: what
            training keeps, roughly, and what inference would without freeing any.
    """

    macs: int
    macs_attention: int
    uncounted: dict[str, int]
    by_module: dict[str, int]
    by_operator: dict[str, int]
    macs_diff_pruning: int
    bytes_products: int
    bytes_elementwise: int
    activation_bytes: dict[str, int]

    @property
    def flops(self) -> int:
        """Floating-point operations: 2 x `macs`."""
        return FLOPS_PER_MAC * self.macs

    def per_image(self, batch_size: int) -> Counts:
        """The share of one image of the batch; weights that are read once for all of them are shared, too.

        Raises:
            UserError: Some work is not done once per image, so that the share is no whole number.
        """
        numbers = [self.macs, self.macs_attention, *self.by_module.values(), *self.by_operator.values()]
        if any(number % batch_size for number in numbers):
            raise UserError(
                f"{self.macs} MACs are no whole number for each of {batch_size} images", "price it with a batch of 1"
            )
        return Counts(
            macs=self.macs // batch_size,
            macs_attention=self.macs_attention // batch_size,
            uncounted=self.uncounted,
            by_module={path: macs // batch_size for path, macs in self.by_module.items()},
            by_operator={operator: macs // batch_size for operator, macs in self.by_operator.items()},
            macs_diff_pruning=self.macs_diff_pruning // batch_size,
            bytes_products=self.bytes_products // batch_size,
            bytes_elementwise=self.bytes_elementwise // batch_size,
            activation_bytes={path: size // batch_size for path, size in self.activation_bytes.items()},
        )


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
    by_operator: Counter[str] = field(default_factory=Counter)
    macs_diff_pruning: int = 0
    bytes_products: int = 0
    bytes_elementwise: int = 0
    activation_bytes: Counter[str] = field(default_factory=Counter)
    muted: bool = False
    """Inside an attention call that has been counted by its own shapes."""
    projections: frozenset[int | None] | None = None
    """Storages of the weights of the `multi_head_attention_forward` that runs. Batched products with them are frozen
    linear layers, all others are those of attention; None outside of one."""

    def add(self, operator: str, macs: int, paths: set[str], attention: bool = False) -> None:
        """Count `macs` multiply-adds of an operator that ran inside the modules `paths`."""
        self.macs += macs
        self.macs_attention += macs * attention
        self.by_operator[ATTENTION if attention else operator] += macs
        for path in paths:
            self.by_module[path] += macs

    def made(self, size: int, paths: set[str]) -> None:
        """Note that an operator inside the modules `paths` made new tensors of `size` bytes."""
        for path in paths:
            self.activation_bytes[path] += size

    def counts(self) -> Counts:
        """What has been counted up to now."""
        return Counts(
            macs=self.macs,
            macs_attention=self.macs_attention,
            uncounted=dict(self.uncounted),
            by_module=dict(self.by_module),
            by_operator=dict(self.by_operator),
            macs_diff_pruning=self.macs_diff_pruning,
            bytes_products=self.bytes_products,
            bytes_elementwise=self.bytes_elementwise,
            activation_bytes=dict(self.activation_bytes),
        )


@contextlib.contextmanager
def counting(root: nn.Module | None = None) -> Iterator[Tally]:
    """Count everything that runs inside the `with` block; see `count`."""
    tally = Tally()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    # The fast path of nn.MultiheadAttention and nn.TransformerEncoderLayer is one operator without a formula.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        eager = torch.compiler.set_stance("force_eager")
        with eager, ModulePaths(root) as modules, _Functions(tally, modules), _Dispatch(tally, modules):
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
    """Sees attention and linear layers before they are taken apart, into operators that depend on layout and device."""

    def __init__(self, tally: Tally, modules: ModulePaths) -> None:
        super().__init__()
        self.tally, self.modules = tally, modules

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attention(func, args, kwargs)
        if func is F.linear:
            return self._linear(func, *args, **kwargs)
        if func is F.multi_head_attention_forward:
            with _set(self.tally, "projections", _projections(*args, **kwargs)):
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _linear(self, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        before = self.tally.macs_diff_pruning
        out: Tensor = func(input, weight, bias)
        # The bias of some layouts is added by an operator of its own, which is not seen to be one.
        additions = 0 if bias is None else out.numel()
        self.tally.macs_diff_pruning = before + out.numel() * weight.shape[-1] + additions
        return out

    def _attention(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        q, k, v = named["query"], named["key"], named["value"]
        if q.is_nested or has_tangent(q, k, v):  # no one shape, or products of tangents too: counted at the dispatcher
            return func(*args, **kwargs)
        with _set(self.tally, "muted", True):
            out: Tensor = func(*args, **kwargs)
        macs = attention_macs(q.shape, k.shape, v.shape, out=out.shape)
        self.tally.add(ATTENTION, macs, self.modules.paths(), attention=True)
        self.tally.bytes_products += sum(map(tensor_bytes, (q, k, v, out)))
        self.tally.made(tensor_bytes(out), self.modules.paths())
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
        known = has_formula(operator)
        if not known and operator is not func and func.namespace != "prim":
            with self:  # in inference mode, composite operators such as matmul arrive whole
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = meta_outputs.run(func, args, kwargs)
        if self.tally.muted:
            return out
        self.tally.made(new_bytes(func, out), self.modules.paths())
        if known:
            self._count(operator, args, kwargs, out)
            self.tally.bytes_products += moved_bytes(func, args, kwargs, out)
            return out
        if is_heavy(str(operator)):
            self.tally.uncounted[str(operator)] += 1
        self.tally.macs_diff_pruning += diff_pruning_macs(operator, args, 0, out)
        self.tally.bytes_elementwise += moved_bytes(func, args, kwargs, out)
        return out

    def _count(self, operator: Any, args: Any, kwargs: Any, out: Any) -> None:
        projections = self.tally.projections
        product = projections is not None and is_batched_product(operator)
        layer = product and any(_storage(arg) in (projections or ()) for arg in args)
        attention = is_attention(operator) or (product and not layer)
        macs = operator_macs(operator, args, kwargs, out)
        self.tally.add(str(operator), macs, self.modules.paths(), attention)
        self.tally.macs_diff_pruning += macs if layer else diff_pruning_macs(operator, args, macs, out)


def _projections(*args: Any, **kwargs: Any) -> frozenset[int | None]:
    """Storages of the weights among the arguments of `multi_head_attention_forward`."""
    given = inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs).arguments
    weights = (value for name, value in given.items() if name.endswith("_weight"))
    return frozenset(_storage(weight) for weight in weights if weight is not None)


def _storage(value: Any) -> int | None:
    """What tells the memory of a tensor from another's, even on the meta device; None for what is no tensor."""
    return value.untyped_storage()._cdata if isinstance(value, Tensor) else None


@contextlib.contextmanager
def _set(tally: Tally, name: str, value: Any) -> Iterator[None]:
    """Give the tally another value for a while."""
    before = getattr(tally, name)
    setattr(tally, name, value)
    try:
        yield
    finally:
        setattr(tally, name, before)
