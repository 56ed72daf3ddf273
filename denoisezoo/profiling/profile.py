"""One row per network, effort and batch size: what it costs, and on what that was measured."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from denoisezoo.archs import Backbone, Effort, ImageSpec
from denoisezoo.diffusion import Denoiser, NetworkDenoiser, Sampler
from denoisezoo.diffusion.capabilities import unconditioned
from denoisezoo.diffusion.guidance import EVERYWHERE, guided
from denoisezoo.errors import UserError
from denoisezoo.plans import Plan
from denoisezoo.profiling.counting import Counts, count
from denoisezoo.profiling.energy import energy_j
from denoisezoo.profiling.latency import latency, timer
from denoisezoo.profiling.machine import device_name
from denoisezoo.profiling.memory import limited_memory, peak_bytes, weight_bytes
from denoisezoo.profiling.modules import module_seconds
from denoisezoo.profiling.roofline import Roofline, peaks, roofline
from denoisezoo.profiling.setting import OutOfMemoryError, Setting, example_inputs, explained, renew
from denoisezoo.profiling.state import undisturbed
from denoisezoo.profiling.training_step import training_step
from denoisezoo.profiling.trajectory import ConstantPlan, counting_copy, trace

Row = dict[str, Any]


@dataclass(frozen=True)
class Walk:
    """A sampler run to price.

    Attributes:
        spec: The sampler as the user wrote it, e.g. "ddim:eta=0.5".
        sampler: The sampler.
        steps: Solver steps.
        denoiser: Wraps a backbone for it.
        plan: Effort at each noise level; None is the effort of the row.
        guidance: Scale of classifier-free guidance; None is without.
        guidance_interval: Noise levels, relative to the image, between which it guides.
        guide: The network that guides; None is the priced one, without labels.
    """

    spec: str
    sampler: Sampler
    steps: int
    denoiser: Callable[[Backbone], Denoiser]
    plan: Plan | None = None
    guidance: float | None = None
    guidance_interval: tuple[float, float] = EVERYWHERE
    guide: NetworkDenoiser | None = None

    def guided(self, denoiser: Denoiser, guide: Denoiser | None = None) -> Denoiser:
        """The denoiser with the walk's guidance around it."""
        return guided(denoiser, self.guidance, self.guidance_interval, guide)


def profile_backbone(
    name: str,
    backbone: Backbone,
    setting: Setting,
    *,
    efforts: Sequence[Effort] | None = None,
    batch_sizes: Sequence[int] = (1,),
    walk: Walk | None = None,
    training: bool = False,
) -> Iterator[Row]:
    """Price a network: one row for each effort and batch size, with the keys of the command line's JSON.

    MACs and bytes are those of a call at batch 1; latency is that of a call for the whole batch; `peak_memory_bytes`
    are the weights and what one call allocates at its peak. A batch that does not fit into memory is halved until it
    does; `batch_size_asked` then tells what it was.

    Args:
        name: What to call it.
        backbone: The network, as `setting.prepare` leaves it. Nothing about it changes.
        setting: How to run it.
        efforts: Which efforts; None is all of them, or the full one where the walk has a plan.
        batch_sizes: Images per call.
        walk: Also price an image made by this sampler.
        training: Also measure a training step.

    Raises:
        UserError: An effort that the network lacks, a plan for another network, guidance without classes, not enough
            memory for a single image, or a type or compiler that does not work here.
    """
    if walk is not None:
        _check(walk, backbone)
    if efforts is None:
        efforts = backbone.efforts if walk is None or walk.plan is None else backbone.efforts[-1:]
    for effort in [backbone.check_effort(effort) for effort in efforts]:
        counts = count_backbone(backbone, setting, effort)
        for batch_size in batch_sizes:
            row = _identity(name, backbone, setting, effort, batch_size) | _counted(counts)
            with undisturbed(backbone, setting.device), limited_memory(setting.device), setting.compiling(backbone):
                row |= _that_fits(backbone, setting, effort, batch_size, counts)
                with explained(setting, row["batch_size"]):
                    if training and not setting.counts_only:
                        row["training"] = training_step(backbone, setting, row["batch_size"], effort)
                    if walk is not None:
                        row |= _walked(backbone, setting, effort, row["batch_size"], walk)
            yield row


def _check(walk: Walk, backbone: Backbone) -> None:
    if walk.plan is not None:
        walk.plan.check(backbone.efforts)
    if walk.guidance is not None and walk.guide is None and not backbone.spec.num_classes:
        raise UserError("this network has no classes to guide to", "leave `guidance` out, or price one with classes")


def _that_fits(backbone: Backbone, setting: Setting, effort: Effort, asked: int, counts: Counts) -> Row:
    """Measure at the largest of `asked`, half of it, a quarter ... that fits into memory."""
    batch_size = asked
    while True:
        try:
            with explained(setting, batch_size):
                row = _measured(backbone, setting, effort, batch_size, counts)
            return row | ({"batch_size": batch_size, "batch_size_asked": asked} if batch_size < asked else {})
        except OutOfMemoryError:
            if batch_size == 1:
                raise
        batch_size //= 2
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()


def count_backbone(backbone: Backbone, setting: Setting, effort: Effort | None = None) -> Counts:
    """Multiply-adds of one call at batch 1, with the rows of its modules.

    Args:
        backbone: The network, on the device and in the type of `setting`.
        setting: How to run it.
        effort: How much of it; None is all.
    """
    with undisturbed(backbone, setting.device), explained(setting, 1):
        inputs = example_inputs(backbone.spec, 1, setting)
        return count(lambda: backbone(*inputs, effort), root=backbone)


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
        "variant": setting.variant,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "params": sum(parameter.numel() for parameter in backbone.parameters()),
    }


def input_text(spec: ImageSpec) -> str:
    """The image that a network takes, e.g. "3x32x32"."""
    return f"{spec.in_channels}x{spec.input_resolution}x{spec.input_resolution}"


def _counted(counts: Counts) -> Row:
    return {
        "macs": counts.macs,
        "flops": counts.flops,
        "macs_attention": counts.macs_attention,
        "uncounted_ops": counts.uncounted,
        "macs_diff_pruning": counts.macs_diff_pruning,
        "bytes_products": counts.bytes_products,
        "bytes_elementwise": counts.bytes_elementwise,
    }


UNMEASURED: Row = {
    "latency_ms": None,
    "images_per_s": None,
    "peak_memory_bytes": None,
    "cold_start_ms": None,
    "roofline": None,
    "energy_j_per_image": None,
}


def _measured(backbone: Backbone, setting: Setting, effort: Effort, batch_size: int, counts: Counts) -> Row:
    """Latency, memory and energy of a call; None where nothing is really computed."""
    if setting.counts_only:
        return dict(UNMEASURED)
    inputs = example_inputs(backbone.spec, batch_size, setting)

    def call() -> Any:
        return backbone(*inputs, effort)

    first = timer(setting.device)(call)
    timing = latency(call, setting.device, runs=setting.runs, refresh=lambda: renew(inputs))
    peak, energy = peak_bytes(call, setting.device), energy_j(call, setting.device)
    return {
        "latency_ms": timing.to_dict(),
        "images_per_s": batch_size / timing.median * 1e3,
        "peak_memory_bytes": None if peak is None else peak + weight_bytes(backbone),
        "cold_start_ms": {"compile" if setting.compiled else "first_call": first},
        "roofline": _roofline(backbone, setting, batch_size, counts, timing.median).to_dict(),
        "energy_j_per_image": None if energy is None else energy / batch_size,
    }


def _roofline(backbone: Backbone, setting: Setting, batch_size: int, counts: Counts, ms: float) -> Roofline:
    """A call of the whole batch; `counts` are those of one image, and weights are read once for all."""
    weights = weight_bytes(backbone)
    images = max(0, counts.bytes_products + counts.bytes_elementwise - weights)
    moved = weights + batch_size * images
    return roofline(batch_size * counts.flops, moved, ms / 1e3, peaks(setting.device, setting.dtype))


def _walked(backbone: Backbone, setting: Setting, effort: Effort, batch_size: int, walk: Walk) -> Row:
    """The whole trajectory of a sampler at one effort, its images included in the batch."""
    denoiser = walk.denoiser(backbone)
    spec, device = backbone.spec, setting.device
    guide: Denoiser | None = None if walk.guide is None else setting.moved_copy(walk.guide)
    if setting.counts_only:
        denoiser, device = counting_copy(denoiser), torch.device("cpu")
        guide = guide and counting_copy(guide)
    shape = (batch_size, denoiser.process.basis.image_channels(spec.in_channels), spec.resolution, spec.resolution)
    trajectory = trace(
        denoiser,
        walk.sampler,
        walk.sampler.prior(
            unconditioned(denoiser.process),
            shape,
            walk.steps,
            device=device,
            dtype=torch.promote_types(setting.dtype, torch.float32),
        ),
        steps=walk.steps,
        plan=walk.plan or ConstantPlan(effort),
        given=denoiser.blank(batch_size, device),
        timed=not setting.counts_only,
        wrap=walk.guided,
        guide=guide,
    )
    row = {"sampler": walk.spec, "steps": walk.steps, "guidance": walk.guidance} | trajectory.to_dict()
    row |= {"plan": walk.plan.to_dict()} if walk.plan else {}
    # The denoiser around the backbone may have heavy operators of its own; their calls are those of the whole walk.
    return row | ({"uncounted_ops": trajectory.uncounted} if trajectory.uncounted else {})


def time_modules(backbone: Backbone, setting: Setting, effort: Effort) -> dict[str, float] | None:
    """Seconds of one call at batch 1 in each module of the eager network, by path; None where nothing is computed."""
    if setting.counts_only:
        return None
    with undisturbed(backbone, setting.device), explained(setting, 1):
        inputs = example_inputs(backbone.spec, 1, setting)
        return module_seconds(backbone, lambda: backbone(*inputs, effort), setting.device)


@contextlib.contextmanager
def prepared_call(backbone: Backbone, setting: Setting, batch_size: int) -> Iterator[Callable[[], Any]]:
    """A call of the full network as `setting` has it, with inputs of its own, to be timed inside the `with` block."""
    with undisturbed(backbone, setting.device), explained(setting, batch_size), setting.compiling(backbone):
        inputs = example_inputs(backbone.spec, batch_size, setting)
        yield lambda: backbone(*inputs)
