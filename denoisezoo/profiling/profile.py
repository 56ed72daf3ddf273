"""One row per network, effort and batch size: what it costs, and on what that was measured."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from denoisezoo.archs import Backbone, Effort, ImageSpec
from denoisezoo.diffusion import Denoiser, Sampler
from denoisezoo.errors import UserError, unknown
from denoisezoo.profiling.counting import Counts, count
from denoisezoo.profiling.latency import latency
from denoisezoo.profiling.machine import device_name
from denoisezoo.profiling.memory import peak_bytes, weight_bytes
from denoisezoo.profiling.state import undisturbed
from denoisezoo.profiling.trajectory import ConstantPlan, counting_copy, trace

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """How a network is run.

    Attributes:
        device: Where; the meta device counts, without weights or timing.
        dtype: Of weights and inputs.
        channels_last: Layout of weights and images.
        compiled: Time the network as `torch.compile` makes it. Counting sees the eager one.
        runs: Timed calls; None takes as many as fit into two seconds, at least 5.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    compiled: bool = False
    runs: int | None = None

    @property
    def counts_only(self) -> bool:
        """Whether nothing is really computed."""
        return self.device.type == "meta"

    def prepare(self, module: nn.Module) -> None:
        """Move a module to this device, type and layout, in place."""
        module.to(device=self.device, dtype=self.dtype)
        if self.channels_last:
            module.to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Walk:
    """A sampler run to price.

    Attributes:
        spec: The sampler as the user wrote it, e.g. "ddim:eta=0.5".
        sampler: The sampler.
        steps: Solver steps.
        denoiser: Wraps a backbone for it.
    """

    spec: str
    sampler: Sampler
    steps: int
    denoiser: Callable[[Backbone], Denoiser]


def profile_backbone(
    name: str,
    backbone: Backbone,
    setting: Setting,
    *,
    efforts: Sequence[Effort] | None = None,
    batch_sizes: Sequence[int] = (1,),
    walk: Walk | None = None,
) -> Iterator[Row]:
    """Price a network: one row for each effort and batch size, with the keys of the command line's JSON.

    MACs are those of a call at batch 1; latency is that of a call for the whole batch; `peak_memory_bytes` are the
    weights and what one call allocates at its peak.

    Args:
        name: What to call it.
        backbone: The network, as `setting.prepare` leaves it. Nothing about it changes.
        setting: How to run it.
        efforts: Which efforts; None is all of them.
        batch_sizes: Images per call.
        walk: Also price an image made by this sampler.

    Raises:
        UserError: An effort that the network lacks, not enough memory, or a type or compiler that does not work here.
    """
    chosen = backbone.efforts if efforts is None else [backbone.check_effort(effort) for effort in efforts]
    for effort in chosen:
        counts = count_backbone(backbone, setting, effort)
        for batch_size in batch_sizes:
            row = _identity(name, backbone, setting, effort, batch_size) | _counted(counts)
            with undisturbed(backbone, setting.device), explained(setting, batch_size), _compiled(backbone, setting):
                row |= _measured(backbone, setting, effort, batch_size)
                if walk is not None:
                    row |= _walked(backbone, setting, effort, batch_size, walk)
            yield row


@contextlib.contextmanager
def _compiled(backbone: Backbone, setting: Setting) -> Iterator[None]:
    """Compile the network in place for a while, if the setting says so; each shape gets a program of its own."""
    if not setting.compiled or setting.counts_only:
        yield
        return
    before = backbone._compiled_call_impl
    backbone.compile(dynamic=False)
    try:
        yield
    finally:
        backbone._compiled_call_impl = before


def count_backbone(backbone: Backbone, setting: Setting, effort: Effort | None = None) -> Counts:
    """Multiply-adds of one call at batch 1, with the rows of its modules.

    Args:
        backbone: The network, on the device and in the type of `setting`.
        setting: How to run it.
        effort: How much of it; None is all.
    """
    with undisturbed(backbone, setting.device), explained(setting, 1):
        inputs = example_inputs(backbone.spec, 1, setting)
        return count(lambda: backbone(**inputs, effort=effort), root=backbone)


def example_inputs(spec: ImageSpec, batch_size: int, setting: Setting) -> dict[str, Tensor]:
    """Random arguments for a backbone, every optional input included: x, c_noise, label, cond and augment."""
    device, dtype = setting.device, setting.dtype
    shape = (batch_size, spec.in_channels, spec.resolution, spec.resolution)
    inputs = {"x": _images(shape, setting), "c_noise": torch.rand(batch_size, device=device, dtype=torch.float32)}
    if dtype is torch.float64:
        inputs["c_noise"] = inputs["c_noise"].double()
    if spec.num_classes:
        inputs["label"] = torch.zeros(batch_size, dtype=torch.int64, device=device)
    if spec.cond_channels:
        inputs["cond"] = _images((batch_size, spec.cond_channels, *shape[2:]), setting)
    if spec.augment_dim:
        inputs["augment"] = torch.zeros(batch_size, spec.augment_dim, device=device, dtype=dtype)
    return inputs


def _images(shape: tuple[int, ...], setting: Setting) -> Tensor:
    images = torch.randn(shape, device=setting.device, dtype=setting.dtype)
    return images.contiguous(memory_format=torch.channels_last) if setting.channels_last else images


def _identity(name: str, backbone: Backbone, setting: Setting, effort: Effort, batch_size: int) -> Row:
    """What was measured, on what."""
    return {
        "name": name,
        "input": input_text(backbone.spec),
        "effort": effort,
        "batch_size": batch_size,
        "device": str(setting.device),
        "device_name": device_name(setting.device),
        "dtype": str(setting.dtype).removeprefix("torch."),
        "layout": "channels_last" if setting.channels_last else "contiguous",
        "compiled": setting.compiled and not setting.counts_only,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "params": sum(parameter.numel() for parameter in backbone.parameters()),
    }


def input_text(spec: ImageSpec) -> str:
    """The image that a network takes, e.g. "3x32x32"."""
    return f"{spec.in_channels}x{spec.resolution}x{spec.resolution}"


def _counted(counts: Counts) -> Row:
    return {
        "macs": counts.macs,
        "flops": counts.flops,
        "macs_attention": counts.macs_attention,
        "uncounted_ops": counts.uncounted,
    }


def _measured(backbone: Backbone, setting: Setting, effort: Effort, batch_size: int) -> Row:
    """Latency and memory of a call; None where nothing is really computed."""
    if setting.counts_only:
        return {"latency_ms": None, "images_per_s": None, "peak_memory_bytes": None}
    inputs = example_inputs(backbone.spec, batch_size, setting)

    def call() -> Any:
        return backbone(**inputs, effort=effort)

    timing = latency(call, setting.device, runs=setting.runs)
    peak = peak_bytes(call, setting.device)
    return {
        "latency_ms": timing.to_dict(),
        "images_per_s": batch_size / timing.median * 1e3,
        "peak_memory_bytes": None if peak is None else peak + weight_bytes(backbone),
    }


def _walked(backbone: Backbone, setting: Setting, effort: Effort, batch_size: int, walk: Walk) -> Row:
    """The whole trajectory of a sampler at one effort, its images included in the batch."""
    denoiser = walk.denoiser(backbone)
    spec, device = backbone.spec, setting.device
    if setting.counts_only:
        denoiser, device = counting_copy(denoiser), torch.device("cpu")
    shape = (batch_size, spec.in_channels, spec.resolution, spec.resolution)
    trajectory = trace(
        denoiser,
        walk.sampler,
        denoiser.process.prior(shape, device=device, dtype=torch.promote_types(setting.dtype, torch.float32)),
        steps=walk.steps,
        plan=ConstantPlan(effort),
        label=torch.zeros(batch_size, dtype=torch.int64, device=device) if spec.num_classes else None,
        cond=torch.zeros((batch_size, spec.cond_channels, *shape[2:]), device=device) if spec.cond_channels else None,
        timed=not setting.counts_only,
    )
    row = {"sampler": walk.spec, "steps": walk.steps} | trajectory.to_dict()
    # The denoiser around the backbone may have heavy operators of its own; their calls are those of the whole walk.
    return row | ({"uncounted_ops": trajectory.uncounted} if trajectory.uncounted else {})


class explained:  # noqa: N801 (reads as a statement where it is used)
    """Turns failures of the machine into errors of the user: memory that runs out, types and compilers it lacks."""

    def __init__(self, setting: Setting, batch_size: int) -> None:
        self.setting, self.batch_size = setting, batch_size

    def __enter__(self) -> None:
        return

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if not isinstance(error, RuntimeError):
            return
        where = f"on {self.setting.device} in {str(self.setting.dtype).removeprefix('torch.')}"
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
            what = f"memory is too small for a batch of {self.batch_size} {where}"
            raise UserError(what, "use a smaller --batch-size") from error
        if "not implemented for" in text:
            raise UserError(f"a layer does not run {where}", "use another --dtype or --device") from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = text.strip().splitlines()[0] if text.strip() else type(error).__name__
            raise UserError(f"torch.compile fails here: {reason}", "leave --compile out; see doctor") from error


def parse_dtype(text: str) -> torch.dtype:
    """A floating type by its name.

    Raises:
        UserError: No such type; the nearest is named.
    """
    if text not in DTYPES:
        raise unknown("dtype", text, DTYPES)
    return DTYPES[text]
