"""A device cuda:0 that is not there: CPU numbers under CUDA's rules, for machines without a GPU.

A tensor "on cuda:0" is one of a subclass around a CPU tensor. Every operator runs on what is inside; operands of two
devices, and a generator of another device than its tensor, raise as they do on CUDA. Each time that the host would wait
for the device is counted by its place in the package, and so is each operator that would be a launch.

torch knows the tensors as those of PrivateUse1, a backend without a driver, so that autograd takes them for tensors of
a device. What registers it (`_setup_privateuseone_for_python_backend` of `torch.utils.backend_registration`) is
experimental; `missing` says so where it is gone. (FakeTensorMode has no numbers, and
cannot do backward passes and samplers.)

What it cannot know: whether the host, which nothing makes wait, comes too early. It takes copies to and from pinned
memory for free, if they are asked not to block, and events for things that have happened.
"""

import contextlib
import sys
from collections import Counter
from unittest import mock

import torch
from torch.autograd import forward_ad
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

import denoisezoo
from denoisezoo.data import loader
from denoisezoo.diffusion.objectives import objective
from denoisezoo.diffusion.processes.lookup import Table

NEEDED = ("_setup_privateuseone_for_python_backend", "_DummyBackendModule")
missing = "" if all(hasattr(backend_registration, name) for name in NEEDED) else (
    f"torch {torch.__version__} has no {' or '.join(NEEDED)}, an experimental interface that the pretended device is of"
)  # fmt: skip
"""Why there is no such device here; empty where there is one."""

CUDA, Real, ROOT = torch.device("cuda:0"), torch.Generator, f"{denoisezoo.__path__[0]}/"
OURS = ("cuda", "pretend")
SHAPES = {"nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "_linalg_check_errors", "linalg_inv_ex",
          "linalg_cholesky", "repeat_interleave"}  # fmt: skip
"""Operators whose result's shape, or failure, the host has to read."""
READS = {"_local_scalar_dense", "is_nonzero", "equal", "item"}
INDEX = {"index", "index_put", "index_put_", "_index_put_impl_"}
MOVES, PINS = {"copy_", "_to_copy", "to"}, {"pin_memory", "_pin_memory"}
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh", "is_pinned",
        "_has_compatible_shallow_copy_type", "_has_same_storage_numel", "resize_", "_efficientzerotensor"}  # fmt: skip
"""Operators that are no launch, besides views."""
WHOLE = ("silu_backward", "mish_backward")
"""Operators that are one kernel on the CPU and on CUDA, and which torch takes apart for a device that has none."""
KERNELS = torch.library.Library("aten", "IMPL")
INSTEAD = {"_efficientzerotensor": torch.zeros, "_conj": torch.conj_physical, "_neg_view": torch.neg}
"""Operators whose results only say what they are, which nobody looks at below the dispatch to Python."""

waits: Counter[str] = Counter()
"""How often the host waited, by "file:line operator" of the package."""
launches: Counter[str] = Counter()
"""How often an operator ran on the device, by its name; what is `aside` is left out."""
host: Counter[str] = Counter()
"""How often an operator ran on the CPU meanwhile."""
_pinned: dict[int, torch.Tensor] = {}
"""Pinned tensors by where their data are; they stay alive, lest others come to lie there."""
_generators: dict[int, str] = {}
_state = {"aside": 0}


class DeviceMixError(RuntimeError):
    """What CUDA would refuse."""


class Pretend(torch.Tensor):
    """A tensor on cuda:0."""

    @staticmethod
    def __new__(cls, elem, requires_grad=False):
        made = torch.Tensor._make_wrapper_subclass(
            cls, elem.size(), strides=elem.stride(), storage_offset=elem.storage_offset(), dtype=elem.dtype,
            device=torch.device("pretend:0"), requires_grad=requires_grad,
        )  # fmt: skip
        made.elem = elem
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    __torch_function__ = torch._C._disabled_torch_function_impl
    __torch_dispatch__ = classmethod(lambda cls, func, types, args=(), kwargs=None: run(func, args, kwargs or {}))

    def tolist(self):
        waited("tolist")
        return self.elem.tolist()

    def __reduce_ex__(self, protocol):
        return self.elem.detach().__reduce_ex__(protocol)


class Generator(Real):
    """A generator that says on which device it is. "both" serves the host and the device with one stream of numbers."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        _generators[made._cdata] = torch.device(device).type
        return made

    device = property(
        lambda self: torch.device("cuda:0" if _generators[self._cdata] == "both" else _generators[self._cdata])
    )


class Event:
    """Something that has happened."""

    def __init__(self, *args, **kwargs): ...
    def record(self, *args): ...
    def synchronize(self): ...
    def query(self):
        return True

    def elapsed_time(self, other):
        return 1.0


class Mode(TorchDispatchMode):
    """Brings what is made on cuda:0 to the pretended device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


@contextlib.contextmanager
def aside():
    """Within it launches are not counted."""
    _state["aside"] += 1
    try:
        yield
    finally:
        _state["aside"] -= 1


def waited(what):
    """Count a wait at the innermost line of the package."""
    frame = sys._getframe(1)
    while frame and not frame.f_code.co_filename.startswith(ROOT):
        frame = frame.f_back
    place = f"{frame.f_code.co_filename[len(ROOT) :]}:{frame.f_lineno}" if frame else "test"
    waits[f"{place} {what}"] += 1


def run(func, args, kwargs):
    """One operator."""
    name, (flat, spec) = func._schema.name.split("::")[1], tree_flatten((args, kwargs))
    ours = [x for x in flat if isinstance(x, Pretend)]
    theirs = [x for x in flat if isinstance(x, torch.Tensor) and not isinstance(x, Pretend)]
    device = next((x.type for x in flat if isinstance(x, torch.device)), None)
    here = device in OURS or (bool(ours) and device is None)
    if name == "is_pinned":
        return not ours and theirs[0].untyped_storage().data_ptr() in _pinned
    check(func, name, flat, ours, theirs, here)
    inner = [x.elem if isinstance(x, Pretend) else torch.device("cpu") if isinstance(x, torch.device) and x.type in OURS
             else x for x in flat]  # fmt: skip
    a, k = tree_unflatten(inner, spec)
    pin = k.pop("pin_memory", False) or name in PINS
    with _disable_current_modes():
        out = a[0].clone() if name in PINS else INSTEAD.get(name, func)(*a, **k)
    if pin:
        _pinned[out.untyped_storage().data_ptr()] = out
    if name == "copy_":
        here = isinstance(args[0], Pretend)
    view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
    if not _state["aside"] and not view and name not in FREE:
        (launches if here or ours else host)[name] += 1
    if not here:
        return out
    normal = ours and not ours[0].is_inference() and any(r.alias_info for r in func._schema.returns)
    with torch.inference_mode(False) if normal else contextlib.nullcontext():
        out = tree_map(lambda x: Pretend(x) if isinstance(x, torch.Tensor) else x, out)
    plain = not ours or (torch.is_inference_mode_enabled() and not func._schema.is_mutable)
    return out if plain else return_and_correct_aliasing(func, args, kwargs, out)


def check(func, name, flat, ours, theirs, here):
    """Refuse what CUDA refuses, and count what it waits for."""
    generator = next((x for x in flat if isinstance(x, Real)), None)
    if generator is not None:
        home = _generators.get(generator._cdata, "cpu")
        if home != "both" and (home == "cuda") != here:
            raise DeviceMixError(f"{func}: a generator of another device")
    moves, index = name in MOVES, name in INDEX and ours and ours[0] is flat[0]
    scalars = all(t.ndim == 0 for t in theirs) and (
        torch.Tag.pointwise in func.tags or name.startswith(("_foreach", "fill"))
    )
    if ours and theirs and not (moves or index or scalars or name in ("detach", "lift_fresh")):
        raise DeviceMixError(f"{func}: operands on cuda:0 and on the CPU")
    crosses = moves and ((ours and theirs) if name == "copy_" else bool(ours) != here)
    crosses = crosses and not any(isinstance(x, torch.device) and x.type == "meta" for x in flat)
    quiet = crosses and any(x is True for x in flat) and any(t.untyped_storage().data_ptr() in _pinned for t in theirs)
    if (crosses and not quiet) or (index and theirs) or (ours and (name in SHAPES or name in READS)):
        waited(name)


def stubs():
    """What `torch.cuda` says of the device."""
    found = dict.fromkeys(("_lazy_init", "set_device", "synchronize", "empty_cache", "manual_seed", "manual_seed_all"))
    found |= {"is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0, "memory_stats": {}}
    found |= {"get_device_name": "pretend", "get_device_capability": (9, 0), "is_bf16_supported": True}
    found |= {"is_current_stream_capturing": False, "memory_allocated": 0, "max_memory_allocated": 0}
    found |= {"get_rng_state": torch.zeros(16, dtype=torch.uint8), "set_rng_state": None}
    found |= {"get_rng_state_all": [], "set_rng_state_all": None, "mem_get_info": (2**36, 2**37)}
    found |= {"get_device_properties": mock.Mock(major=9, minor=0, total_memory=2**37)}
    return {name: lambda *_, value=value, **__: value for name, value in found.items()} | {"Event": Event}


def register():
    """Make the backend known, once in a process: before its first backward pass, for which autograd counts devices."""
    if missing or hasattr(torch, "pretend"):
        return

    class Backend(backend_registration._DummyBackendModule):
        get_rng_state = staticmethod(lambda *_: torch.zeros(16, dtype=torch.uint8))
        set_rng_state = synchronize = set_device = staticmethod(lambda *_: None)

    backend_registration._setup_privateuseone_for_python_backend("pretend", Backend())
    torch._C._ensureCUDADeviceGuardSet()
    for name in WHOLE:
        func = getattr(torch.ops.aten, name).default
        KERNELS.impl(name, lambda *args, func=func: run(func, args, {}), "PrivateUse1")


def shared(generator):
    """Instead of a generator of the host with the same seed, the same one: numbers are to be those of the CPU."""
    if generator is not None and generator.device.type == "cuda":
        _generators[generator._cdata] = "both"
    return generator


def kept(like):
    """`Table.like`, which keeps copies of plain tensors alone, keeping those of this device too."""

    def kept_like(self, x, dtype=None):
        key = (x.device, dtype or x.dtype)
        self._copies[key] = found = like(self, x, dtype)
        return found

    return kept_like


def pushed(jvp):
    """`torch.func.jvp` by dual numbers where tensors are of this device, which it cannot wrap once more."""

    def of_duals(function, inputs, along):
        if not any(isinstance(x, Pretend) for x in (*inputs, *along)):
            return jvp(function, inputs, along)
        with forward_ad.dual_level():
            value, tangent = forward_ad.unpack_dual(function(*map(forward_ad.make_dual, inputs, along)))
        return value, torch.zeros_like(value) if tangent is None else tangent

    return of_duals


@contextlib.contextmanager
def pretend_cuda():
    """Within it there is a device cuda:0; `waits` and `launches` are empty at first."""
    register()
    torch._C._set_only_lift_cpu_tensors(True)
    with contextlib.ExitStack() as stack:
        for name, value in stubs().items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        stack.enter_context(mock.patch.object(Table, "like", kept(Table.like)))
        stack.enter_context(mock.patch.object(torch.func, "jvp", pushed(torch.func.jvp)))
        stack.enter_context(mock.patch.object(objective, "host_generator", shared))
        stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        for counts in (waits, launches, host):
            counts.clear()
        stack.callback(loader._cuda.cache_clear)
        loader._cuda.cache_clear()  # whether there is a GPU is asked once
        stack.enter_context(Mode())
        try:
            yield
        finally:
            torch._C._set_only_lift_cpu_tensors(False)
            _pinned.clear()
            _generators.clear()  # others may come to lie where these did


def on(device):
    """A context for "cuda", which is pretended, or for "cpu", which is not; with the same attention on both."""
    return pretend_cuda() if device == "cuda" else torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
