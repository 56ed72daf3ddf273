"""The price of an image: the real sampler runs once, and every call of denoiser, encoder and decoder becomes a row.

Second calls of Heun, stochastic steps, ODE blocks and plans come out right because they are observed, not assumed.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from denoisezoo.archs import Backbone, Effort
from denoisezoo.diffusion import Denoiser, NetworkDenoiser, Noise, Prediction, Sampler
from denoisezoo.diffusion.codecs import Codec, without_weights
from denoisezoo.diffusion.samplers.sampler import EffortPlan
from denoisezoo.errors import UserError
from denoisezoo.nn.given import NOTHING, Given
from denoisezoo.profiling.counting import count, counting
from denoisezoo.profiling.latency import timer
from denoisezoo.profiling.state import undisturbed


@dataclass(frozen=True)
class Call:
    """One denoiser call.

    Attributes:
        call: Its index, from 0.
        t: Time on the process's axis.
        sigma: Noise relative to the image, exp(-log_snr / 2); infinite where no signal is left.
        effort: How much of the network ran.
        macs: Multiply-adds per image.
        macs_attention: The part of them in the products QK^T and AV of attention, which some papers leave out.
        inner_nfe: Evaluations of ODE vector fields inside the network; 1 for a network without any.
        latency_ms: Time of the call for the whole batch; None if it was only counted.
    """

    call: int
    t: float
    sigma: float
    effort: Effort
    macs: int
    macs_attention: int
    inner_nfe: int
    latency_ms: float | None


@dataclass(frozen=True)
class CodecCall:
    """What a sampling run has of its codec.

    Attributes:
        label: "encode" for a conditioning image, "clip" where the sampler clips images through a lossless codec, all
            of its calls together, and "decode" for the latents at the end.
        macs: Multiply-adds per image.
        macs_attention: As of `Call`.
        latency_ms: Time for the whole batch; None if it was only counted.
    """

    label: str
    macs: int
    macs_attention: int
    latency_ms: float | None

    def to_dict(self) -> dict[str, Any]:
        """A row with the keys of a denoiser call's, where they have a meaning, and its label."""
        return dict.fromkeys(field.name for field in fields(Call)) | {"inner_nfe": 0} | asdict(self)


@dataclass(frozen=True)
class Trajectory:
    """All calls of one sampling run, in order.

    Attributes:
        calls: One entry for each denoiser call.
        uncounted: Heavy operators without a formula, with their calls; if any, MACs are lower bounds.
        codec: One entry for each thing that the codec does; none of pixels.
    """

    calls: tuple[Call, ...]
    uncounted: dict[str, int]
    codec: tuple[CodecCall, ...] = ()

    @property
    def nfe(self) -> int:
        """Denoiser calls."""
        return len(self.calls)

    @property
    def inner_nfe(self) -> int:
        """Evaluations of vector fields over all calls."""
        return sum(call.inner_nfe for call in self.calls)

    @property
    def macs_per_image(self) -> int:
        """Multiply-adds of all calls, those of the codec included, per image."""
        return sum(call.macs for call in self.calls) + self.codec_macs

    @property
    def codec_macs(self) -> int:
        """Multiply-adds of the codec, per image."""
        return sum(call.macs for call in self.codec)

    def to_dict(self) -> dict[str, Any]:
        """The JSON fields `nfe, inner_nfe, macs_per_image, trajectory`."""
        return {
            "nfe": self.nfe,
            "inner_nfe": self.inner_nfe,
            "macs_per_image": self.macs_per_image,
            "trajectory": [
                *(call.to_dict() for call in self.codec if call.label == "encode"),
                *(asdict(call) for call in self.calls),
                *(call.to_dict() for call in self.codec if call.label != "encode"),
            ],
        }


@dataclass(frozen=True)
class ConstantPlan:
    """The same effort at every noise level."""

    value: Effort

    def effort(self, log_snr: float) -> Effort:
        """The effort, whatever the noise level."""
        return self.value


def trace(
    denoiser: Denoiser,
    sampler: Sampler,
    u_T: Tensor,
    *,
    steps: int,
    plan: EffortPlan | None = None,
    given: Given = NOTHING,
    generator: Noise = None,
    timed: bool = True,
    wrap: Callable[..., Denoiser] | None = None,
    guide: Denoiser | None = None,
) -> Trajectory:
    """Sample once and price every call.

    Args:
        denoiser: Its training flags, random states and hooks are as before afterwards.
        sampler: The sampler that walks.
        u_T: Initial state (B, C, H, W), on the denoiser's device; on the CPU for `counting_copy`.
        steps: Solver steps.
        plan: Effort at each noise level; None is the full network.
        given: What the images are told: label, conditioning image (not encoded), ...
        generator: Source of a stochastic sampler's noise.
        timed: Time each call too. The timed call is run apart from the counted one, which counting slows down.
        wrap: Puts something around the denoiser that calls it, such as guidance; every call of it is a row.
        guide: A second denoiser that `wrap` takes then; its calls are rows, too.

    Raises:
        UserError: The sampler refuses, or the MACs of a call are no whole number per image.
    """
    observed = _Observed(denoiser, timed)
    walked: Denoiser = observed
    with contextlib.ExitStack() as held:
        held.enter_context(undisturbed(denoiser, u_T.device))
        held.enter_context(_counted_fields(denoiser, observed))
        if guide is not None:
            second = _Observed(guide, timed)
            second.calls, second.uncounted = observed.calls, observed.uncounted
            held.enter_context(undisturbed(guide, u_T.device))
            held.enter_context(_counted_fields(guide, second))
            walked = wrap(observed, second) if wrap else observed
        elif wrap:
            walked = wrap(observed)
        sampler(
            walked,
            u_T,
            steps=steps,
            plan=plan,
            given=given,
            generator=generator,
        )
    of_codec = observed.codec.calls if isinstance(observed.codec, _ObservedCodec) else {}
    return Trajectory(tuple(observed.calls), dict(observed.uncounted), tuple(of_codec.values()))


def trace_codec(codec: Codec, image: Tensor, *, timed: bool = True) -> Trajectory:
    """What encoding and decoding images costs, without a denoiser between.

    Args:
        codec: It stays as it is.
        image: Images (B, C, H, W) on its device, in the type of its weights.
        timed: Time them too, for the whole batch.
    """
    uncounted: Counter[str] = Counter()
    observed = _ObservedCodec(codec, timed, uncounted)
    with torch.no_grad(), undisturbed(codec, image.device):
        observed.decode(observed.encode(image))
    return Trajectory((), dict(uncounted), tuple(observed.calls.values()))


class _Observed(Denoiser):
    """A denoiser that writes down its calls."""

    def __init__(self, denoiser: Denoiser, timed: bool) -> None:
        super().__init__()
        self.denoiser, self.timed = denoiser, timed
        self.process, self.efforts = denoiser.process, denoiser.efforts
        self.calls: list[Call] = []
        self.warm = False
        self.uncounted: Counter[str] = Counter()
        if not denoiser.codec.identity:
            self.codec = _ObservedCodec(denoiser.codec, timed, self.uncounted)
        self.fields: int | None = None
        """Vector field evaluations up to now; None for a network without fields."""

    def forward(self, u_t: Tensor, t: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Prediction:
        """Count the call, then time it, and return its prediction."""
        fields = self.fields
        with counting(self.denoiser) as tally:
            prediction: Prediction = self.denoiser(u_t, t, given, effort)
        inner = 1 if self.fields is None or fields is None else self.fields - fields
        counts = tally.counts().per_image(u_t.shape[0])
        self.uncounted.update(counts.uncounted)
        latency = self._latency(u_t, t, given, effort) if self.timed else None
        sigma = _sigma(self.denoiser, t[:1])
        used = self.efforts[-1] if effort is None else effort
        macs = counts.macs, counts.macs_attention
        self.calls.append(Call(len(self.calls), float(t[0]), sigma, used, *macs, inner, latency))
        return prediction

    def blank(self, batch_size: int = 1, device: torch.device | str | None = None) -> Given:
        """See `Denoiser.blank`."""
        return self.denoiser.blank(batch_size, device)

    def _latency(self, u_t: Tensor, t: Tensor, given: Given, effort: Effort | None) -> float:
        def call() -> Prediction:
            prediction: Prediction = self.denoiser(u_t, t, given, effort)
            return prediction

        timed = timer(u_t.device)
        if not self.warm:
            timed(call)  # warm-up: choice of kernels, first allocations
            self.warm = True
        return timed(call)


class _ObservedCodec(Codec):
    """A codec that writes down its calls, by their label."""

    def __init__(self, codec: Codec, timed: bool, uncounted: Counter[str]) -> None:
        super().__init__()
        self.codec, self.timed, self.uncounted = codec, timed, uncounted
        self.lossless = codec.lossless
        self.calls: dict[str, CodecCall] = {}

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encode, observed."""
        return self._observe("encode", lambda: self.codec.encode(image, generator), image)

    def decode(self, z: Tensor) -> Tensor:
        """Decode, observed."""
        return self._observe("decode", lambda: self.codec.decode(z), z)

    def clamp(self, z: Tensor, most: float) -> Tensor:
        """Clip, observed."""
        return self._observe("clip", lambda: self.codec.clamp(z, most), z)

    def latent_shape(self, C: int, H: int, W: int) -> tuple[int, int, int]:
        """The codec's."""
        return self.codec.latent_shape(C, H, W)

    def _observe(self, label: str, call: Callable[[], Tensor], x: Tensor) -> Tensor:
        """Count the call, then time it, and return what it made; x has its batch and its device."""
        with counting(self.codec) as tally:
            made = call()
        counts = tally.counts().per_image(len(x))
        self.uncounted.update(counts.uncounted)
        before = self.calls.get(label, CodecCall(label, 0, 0, None))
        ms = before.latency_ms
        if self.timed:
            timed = timer(x.device)
            timed(call)  # warm-up: it is called but once in a walk
            ms = (ms or 0.0) + timed(call)
        macs, attention = before.macs + counts.macs, before.macs_attention + counts.macs_attention
        self.calls[label] = CodecCall(label, macs, attention, ms)
        return made


def _sigma(denoiser: Denoiser, t: Tensor) -> float:
    """Noise relative to the image at time t (1,), without overflow where no signal is left."""
    half = -float(denoiser.process.log_snr(t)) / 2
    return math.exp(half) if half < 700 else math.inf


@contextlib.contextmanager
def _counted_fields(module: nn.Module, observed: _Observed) -> Iterator[None]:
    """Count evaluations of the vector fields in `module` by hooks, removed at the end."""
    fields = [part for part in module.modules() if getattr(type(part), "is_vector_field", False)]
    if not fields:
        yield
        return
    observed.fields = 0

    def evaluated(*_: Any) -> None:
        observed.fields = (observed.fields or 0) + 1

    hooks = [part.register_forward_hook(evaluated) for part in fields]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _OnMeta(nn.Module):
    """A backbone on the meta device between tensors on the CPU: its output is zeros of the right shape."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.efforts, self.spec, self.resolutions = backbone.efforts, backbone.spec, backbone.resolutions

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """Evaluate shapes only."""
        out = self.backbone(x.to("meta"), c_noise.to("meta"), given.to("meta"), effort)
        return torch.zeros(out.shape, dtype=out.dtype)


class _CodecOnMeta(Codec):
    """A codec on the meta device between tensors on the CPU: latents and images are zeros of the right shape."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec, self.lossless = without_weights(codec), codec.lossless

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Evaluate shapes only."""
        z = self.codec.encode(image.to("meta"))
        return torch.zeros(z.shape, dtype=z.dtype)

    def decode(self, z: Tensor) -> Tensor:
        """Evaluate shapes only."""
        image = self.codec.decode(z.to("meta"))
        return torch.zeros(image.shape, dtype=image.dtype)

    def latent_shape(self, C: int, H: int, W: int) -> tuple[int, int, int]:
        """The codec's."""
        return self.codec.latent_shape(C, H, W)


def encoding_macs(denoiser: NetworkDenoiser) -> int:
    """Multiply-adds of encoding an image, and its conditioning image if it has one, as training does on the fly."""
    if denoiser.codec.identity:
        return 0
    codec = without_weights(denoiser.codec)
    shapes = [shape for shape in (denoiser.image_shape, denoiser.cond_shape) if shape is not None]
    images = [torch.zeros(1, *shape, dtype=codec.dtype, device="meta") for shape in shapes]
    return sum(count(partial(codec.encode, image)).macs for image in images)


def counting_copy(denoiser: Denoiser) -> Denoiser:
    """A copy that answers zero, at once, and costs what `denoiser` does, to be walked on the CPU.

    The sampler's own arithmetic, which may depend on the time, stays real; the backbone runs on the meta device.
    Only walks whose length does not depend on the images are priced right.

    Raises:
        UserError: The denoiser has no backbone to move.
    """
    if not isinstance(denoiser, NetworkDenoiser):
        raise UserError(f"{type(denoiser).__name__} has no backbone to count", "price it by running it")
    backbone = denoiser.backbone
    if any(parameter.device.type != "meta" for parameter in backbone.parameters()):
        backbone = copy.deepcopy(backbone).to("meta")
    stand_in: Any = _OnMeta(backbone)
    found = denoiser.with_backbone(stand_in)
    if not denoiser.codec.identity:
        found.codec = _CodecOnMeta(denoiser.codec)
    return found
