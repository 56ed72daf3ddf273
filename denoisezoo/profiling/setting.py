"""How a network is run while it is priced: device, type, layout, compiler; and the variants that stand side by side."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from denoisezoo.archs import Backbone, ImageSpec, compile_network
from denoisezoo.errors import UserError, unknown
from denoisezoo.nn.given import Given

M = TypeVar("M", bound=nn.Module)

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


@dataclass(frozen=True)
class Setting:
    """How a network is run.

    Attributes:
        device: Where; the meta device counts, without weights or timing.
        dtype: Of weights and inputs.
        channels_last: Layout of weights and images.
        compiled: Time the network as `torch.compile` makes it. Counting sees the eager one.
        compile_mode: A mode of `torch.compile`, e.g. "reduce-overhead", which uses CUDA graphs.
        runs: Timed calls; None takes as many as fit into two seconds, at least 5.
        variant: Name of the entry of `VARIANTS` that this is; None for what the user asked for.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    compiled: bool = False
    runs: int | None = None
    compile_mode: str | None = None
    variant: str | None = None

    @property
    def counts_only(self) -> bool:
        """Whether nothing is really computed."""
        return self.device.type == "meta"

    def prepare(self, module: nn.Module) -> None:
        """Move a module to this device, type and layout, in place."""
        module.to(device=self.device, dtype=self.dtype)
        module.to(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)

    def moved_copy(self, module: M) -> M:
        """A copy on this device, in this type and layout."""
        copied = copy.deepcopy(module)
        self.prepare(copied)
        return copied

    @contextlib.contextmanager
    def compiling(self, backbone: Backbone) -> Iterator[None]:
        """Compile the network in place for a while, if so set; each shape gets a program of its own."""
        if not self.compiled or self.counts_only:
            yield
            return
        before = backbone._compiled_call_impl
        torch.compiler.reset()  # what was compiled for another setting must not count against this one's limit
        compile_network(backbone, dynamic=False, mode=self.compile_mode)
        try:
            yield
        finally:
            backbone._compiled_call_impl = before


VARIANTS: dict[str, dict[str, Any]] = {
    "eager": {},
    "channels_last": {"channels_last": True},
    "bf16": {"channels_last": True, "dtype": torch.bfloat16},
    "compiled": {"channels_last": True, "compiled": True},
    "compiled_bf16": {"channels_last": True, "compiled": True, "dtype": torch.bfloat16},
    "cuda_graphs": {"channels_last": True, "compiled": True, "compile_mode": "reduce-overhead"},
    "cuda_graphs_bf16": {
        "channels_last": True, "compiled": True, "compile_mode": "reduce-overhead", "dtype": torch.bfloat16,
    },
}  # fmt: skip
"""Ways to run a network, each on top of the setting that the user gave."""


def variants_of(setting: Setting, names: Sequence[str]) -> list[Setting]:
    """The settings of some variants.

    Args:
        setting: Device, type and number of runs.
        names: Keys of `VARIANTS`; "all" is all that the device has.

    Raises:
        UserError: An unknown name, or CUDA graphs without CUDA.
    """
    on_cuda = setting.device.type == "cuda"
    chosen: list[str] = []
    for name in names:
        if name != "all" and name not in VARIANTS:
            raise unknown("variant", name, ["all", *VARIANTS])
        if name.startswith("cuda_graphs") and not on_cuda:
            raise UserError(f"variant {name} needs a CUDA device", "leave it out, or use `device=cuda`")
        chosen += [v for v in VARIANTS if on_cuda or not v.startswith("cuda")] if name == "all" else [name]
    return [replace(setting, variant=name, **VARIANTS[name]) for name in dict.fromkeys(chosen)]


def parse_dtype(text: str) -> torch.dtype:
    """A floating type by its name.

    Raises:
        UserError: No such type; the nearest is named.
    """
    if text not in DTYPES:
        raise unknown("dtype", text, DTYPES)
    return DTYPES[text]


Inputs = tuple[Tensor, Tensor, Given]
"""x, c_noise and what else a backbone is told."""


def example_inputs(spec: ImageSpec, batch_size: int, setting: Setting) -> Inputs:
    """Random arguments for a backbone, every optional input included."""
    device, dtype = setting.device, setting.dtype
    shape = (batch_size, spec.in_channels, spec.input_resolution, spec.input_resolution)
    x = _images(shape, setting)
    c_noise = torch.rand(batch_size, device=device, dtype=torch.float32)
    given = Given(
        label=torch.zeros(batch_size, dtype=torch.int64, device=device) if spec.num_classes else None,
        image=_images((batch_size, spec.cond_channels, *shape[2:]), setting) if spec.cond_channels else None,
        tokens=_images((batch_size, spec.tokens, spec.token_dim), setting) if spec.token_dim else None,
        augment=torch.zeros(batch_size, spec.augment_dim, device=device, dtype=dtype) if spec.augment_dim else None,
        until=torch.zeros(batch_size, device=device) if spec.second_time else None,
    )
    return x, c_noise.double() if dtype is torch.float64 else c_noise, given


def renew(inputs: Inputs) -> None:
    """Fill images and noise levels with new random numbers, in place."""
    inputs[0].normal_()
    inputs[1].uniform_()


def _images(shape: tuple[int, ...], setting: Setting) -> Tensor:
    images = torch.randn(shape, device=setting.device, dtype=setting.dtype)
    last = setting.channels_last and images.ndim == 4
    return images.contiguous(memory_format=torch.channels_last) if last else images


class OutOfMemoryError(UserError):
    """The batch is too large for the device."""


class explained:  # noqa: N801 (reads as a statement where it is used)
    """Turns failures of the machine into errors of the user: memory that runs out, types and compilers it lacks."""

    def __init__(self, setting: Setting, batch_size: int) -> None:
        self.setting, self.batch_size = setting, batch_size

    def __enter__(self) -> None:
        return

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if not isinstance(error, RuntimeError | MemoryError):
            return
        where = f"on {self.setting.device} in {str(self.setting.dtype).removeprefix('torch.')}"
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
            what = f"memory is too small for a batch of {self.batch_size} {where}"
            raise OutOfMemoryError(what, "use a smaller `batch_size`") from error
        if "not implemented for" in text:
            raise UserError(f"a layer does not run {where}", "use another `dtype` or `device`") from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = text.strip().splitlines()[0] if text.strip() else type(error).__name__
            cure = "leave `compile` out; see `denoisezoo doctor`"
            raise UserError(f"torch.compile fails here: {reason}", cure) from error
