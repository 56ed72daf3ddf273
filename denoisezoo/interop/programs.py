"""A network or a denoiser as a program: traced at one effort and one size of the image, the batch size left open.

A trace holds what ran, and nothing else. Where stages of a process differ in size, another network may serve each, and
a trace of the whole would keep that of the traced size alone: so each stage is a program of its own. A batch size that
some code takes for a constant would be one in the program: so it is run at other batch sizes before it is kept.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from denoisezoo.archs import Backbone, Effort
from denoisezoo.diffusion import Given, NetworkDenoiser
from denoisezoo.diffusion.capabilities import dropped_at, nearest_time, stages_of, state_shape
from denoisezoo.errors import UserError
from denoisezoo.interop.writer import Subject, Writer, Written
from denoisezoo.recorded import Recorded

TRACED, CHECKED = 2, (1, 3)
"""Batch sizes: of the trace, and of the runs that must agree with the network."""
TOLERANCE = 1e-4
"""By how much an output may differ from the network's, relative to the standard deviation of images above 1."""
OTHERWISE = "give `part`, denoiser or network, whichever this is not, or another `format`"
Tensors = tuple[Tensor, ...]


class NetworkCall(nn.Module):
    """F by position: (x, c_noise, what else it is told)."""

    def __init__(self, network: Backbone, told: Sequence[str]) -> None:
        super().__init__()
        self.network, self.told = network, tuple(told)

    def forward(self, x: Tensor, c_noise: Tensor, *told: Tensor) -> Tensor:
        """Evaluate."""
        _of_one_batch(x, c_noise, *told)
        y: Tensor = self.network(x, c_noise, Given(**dict(zip(self.told, told, strict=True))))
        return y


class DenoiserCall(nn.Module):
    """D by position: (u_t, t, what else it is told) to the estimate of u_0; coefficients are computed in float64."""

    def __init__(self, denoiser: NetworkDenoiser, told: Sequence[str]) -> None:
        super().__init__()
        self.denoiser, self.told = denoiser, tuple(told)

    def forward(self, u_t: Tensor, t: Tensor, *told: Tensor) -> Tensor:
        """Denoise."""
        _of_one_batch(u_t, t, *told)
        u_0: Tensor = self.denoiser(u_t, t.double(), Given(**dict(zip(self.told, told, strict=True)))).u_0
        return u_0


def _of_one_batch(x: Tensor, *others: Tensor) -> None:
    """Tell the tracer that all have one batch size, which it could not see of what a network never reads."""
    for other in others:
        torch._check(other.shape[0] == x.shape[0])


@dataclass(frozen=True, kw_only=True)
class Program:
    """One thing to trace.

    Attributes:
        module: What is called, by position; float32, on the CPU, sharing weights where it can.
        names: What its inputs are called.
        draw: Inputs as they may come, for a batch size.
        effort: Of its network.
        side: Height and width of its image in pixels.
        times: First and last time of the stage that it serves.
        staged: Whether there are other stages.
        inputs: See `Written.inputs`.
    """

    module: nn.Module = field(repr=False)
    names: tuple[str, ...]
    draw: Callable[[int], Tensors]
    effort: Effort
    side: int
    times: tuple[float, float]
    staged: bool
    inputs: Sequence[tuple[str, str, str, str]]


def programs(subject: Subject) -> Iterator[Program]:
    """The programs of a subject: one for each effort, and for each stage of its process.

    Raises:
        UserError: Its network does not have such an effort.
    """
    given = subject.denoiser
    for effort in subject.efforts:
        # Without its codec, which works outside; efforts are taken out so that nothing of others stays inside.
        network = given.backbone.extract(effort)
        denoiser = frozen_copy(NetworkDenoiser(network, given.process, given.preconditioning))
        for times in stages_of(denoiser.process):
            yield _program(denoiser, subject.part == "denoiser", effort, times)


def _program(denoiser: NetworkDenoiser, whole: bool, effort: Effort, times: tuple[float, float]) -> Program:
    process = denoiser.process
    u_t, _, given = draw_states(denoiser, times, 1)
    told = tuple(name for name, value in given._asdict().items() if value is not None)

    def draw(batch: int) -> Tensors:
        u_t, t, given = draw_states(denoiser, times, batch)
        if not whole:
            u_t, t, given = observed(denoiser, u_t, t, given)
        return (u_t.float(), t.float(), *(value for value in given if value is not None))

    first = draw(1)
    module = DenoiserCall(denoiser, told) if whole else NetworkCall(denoiser.backbone, told)
    names = (*(("u_t", "t") if whole else ("x", "c_noise")), *told)
    with torch.no_grad():
        output: Tensor = module(*first)
    meanings = dict(_meanings(denoiser, whole, times, told))
    ends = [*zip(names, first, strict=True), ("u_0" if whole else "F", output)]
    return Program(
        module=module,
        names=names,
        draw=draw,
        effort=effort,
        side=u_t.shape[-1],
        times=times,
        staged=len({dropped_at(process, middle(stage)) for stage in stages_of(process)}) > 1,
        inputs=[(name, _shape(name, value), str(value.dtype)[6:], meanings[name]) for name, value in ends],
    )


def middle(times: tuple[float, float]) -> float:
    """A time well within a stage."""
    return sum(times) / 2


def _shape(name: str, value: Tensor) -> str:
    sizes = ["batch", *(("tokens", *map(str, value.shape[2:])) if name == "tokens" else map(str, value.shape[1:]))]
    return "(" + ", ".join(sizes) + ")"


def _meanings(
    denoiser: NetworkDenoiser, whole: bool, times: tuple[float, float], told: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """What each input is, with its unit, and the output."""
    process, preconditioning = title(denoiser.process), title(denoiser.preconditioning)
    high, low = (f"{time:g}" for time in times)
    images = "an image in [-1, 1]" if denoiser.codec.identity else "latents"
    classes = denoiser.backbone.spec.num_classes
    yield "u_t", f"state A_t u_0 + R_t eps of {process} at time t; u_0 is {images}"
    yield "t", f"time of {process}, from {high} (noise) to {low}"
    yield "x", f"the state as {preconditioning} scales it, c_in u_t"
    yield "c_noise", f"the noise level as {preconditioning} tells it for {process}"
    yield "label", f"class from 0 to {classes - 1}; -1 for none"
    yield "image", "the conditioning image"
    yield "tokens", "context tokens"
    yield "until", "time s <= t at which the step ends" if whole else "time at which the step ends, in c_noise's unit"
    yield "u_0", "estimate of u_0 given u_t"
    yield "F", f"what {preconditioning} says the network predicts"


def title(part: Any) -> str:
    """A process or a preconditioning with the arguments that it was made of."""
    made_of = getattr(part, "made_of", {}) if isinstance(part, Recorded) else {}
    return f"{type(part).__name__}({', '.join(f'{key}={value!r}' for key, value in made_of.items())})"


def draw_states(denoiser: NetworkDenoiser, times: tuple[float, float], batch: int) -> tuple[Tensor, Tensor, Given]:
    """Random states of a stage (B, C, H, W), their times (B,), float64, and what else the network is told.

    A batch of another size has other numbers, and other numbers of tokens.
    """
    process, spec, (C, H, W) = denoiser.process, denoiser.backbone.spec, denoiser.latent_shape
    generator = torch.Generator().manual_seed(batch)

    def noise(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator)

    share = torch.rand(batch, generator=generator, dtype=torch.float64)
    first, last = times
    alone = len(stages_of(process)) == 1
    t = process.sample_times(share) if alone else last + (first - last) * (0.05 + 0.9 * share)
    t = nearest_time(process, t)
    _, *shape = state_shape(process, (batch, C, H, W), middle(times))
    given = Given(
        label=torch.randint(-1, spec.num_classes, (batch,), generator=generator) if spec.num_classes else None,
        image=noise(spec.cond_channels, H, W) if spec.cond_channels else None,
        tokens=noise(spec.tokens + batch, spec.token_dim) if spec.token_dim else None,
        until=(t * share).float() if spec.second_time else None,
    )
    return process.perturb(noise(*shape), noise(*shape), t), t, given


@torch.no_grad()
def observed(denoiser: NetworkDenoiser, u_t: Tensor, t: Tensor, given: Given) -> tuple[Tensor, Tensor, Given]:
    """What a denoiser calls its network with."""
    calls: list[tuple[Tensor, Tensor, Given]] = []
    hook = denoiser.backbone.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[:3]))
    try:
        denoiser(u_t, t, given)
    finally:
        hook.remove()
    return calls[0]


Module = Any


def frozen_copy(module: Module, without: frozenset[str] = frozenset()) -> Module:
    """A copy in evaluation mode, in float32 on the CPU, that shares what weights are so already.

    Args:
        module: Stays as it is.
        without: Names of parameters and buffers that are left out.
    """
    memo: dict[int, Any] = {}
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        kept = value.detach().to("cpu", torch.float32 if value.is_floating_point() else value.dtype)
        kept = kept.new_empty(0) if name in without else kept
        memo[id(value)] = nn.Parameter(kept, requires_grad=False) if isinstance(value, nn.Parameter) else kept
    return copy.deepcopy(module, memo).eval()


def trace(program: Program, what: str) -> ExportedProgram:
    """The program as torch.export has it, without the weights of other stages.

    Args:
        program: What to trace.
        what: What it is, for errors.

    Raises:
        UserError: It cannot be traced, or not without a fixed batch size.
    """
    try:
        module = frozen_copy(program.module, unread(program)) if program.staged else program.module
        batch, tokens = Dim("batch", min=1), Dim("tokens", min=1)
        sizes = [{0: batch, 1: tokens} if name == "tokens" else {0: batch} for name in program.names]
        # To the tracer all that follows the first two is one argument, a tuple.
        shapes = (*sizes[:2], *([tuple(sizes[2:])] if sizes[2:] else []))
        with torch.no_grad():
            return torch.export.export(module, program.draw(TRACED), dynamic_shapes=shapes, strict=False)
    except UserError:
        raise
    except Exception as error:  # whatever torch makes of operations that have no form in a graph
        reason = reason_of(error)
        if "Constraints violated (batch)" in reason:
            reason = "its code takes the batch size for a constant"
        raise UserError(f"{what} cannot be traced ({reason})", OTHERWISE) from error


def reason_of(error: BaseException) -> str:
    """What an error of torch says first, or the one that it came from: a line that may be shown."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


ATTRIBUTES = (Tensor.dtype.__get__, Tensor.device.__get__)  # type: ignore[attr-defined]
"""What may be asked of a weight that is not read."""


class _Reads(TorchFunctionMode):
    """Notes every tensor that an operation is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in ATTRIBUTES:
            self.seen.update(id(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor))
        return func(*args, **(kwargs or {}))


def unread(program: Program) -> frozenset[str]:
    """Names of the weights that a program does not read, such as those of other stages: a trace would hold them."""
    inputs = program.draw(1)
    with torch.no_grad(), _Reads() as reads:
        program.module(*inputs)
    weights = (*program.module.named_parameters(), *program.module.named_buffers())
    return frozenset(name for name, value in weights if id(value) not in reads.seen)


@torch.no_grad()
def differences(program: Program, call: Callable[[Tensors], Tensor]) -> float:
    """The largest difference of outputs from the network's, over batch sizes that were not traced.

    It is relative to the standard deviation of an image where that is above 1.
    """
    worst = 0.0
    for batch in CHECKED:
        inputs = program.draw(batch)
        expected = program.module(*inputs)
        found = call(inputs)
        if found.shape != expected.shape:
            return float("inf")
        scale = expected.flatten(1).std(1).clamp(min=1)
        gap = (found - expected).abs().flatten(1).amax(1) / scale
        worst = max(worst, gap.max().item()) if bool(gap.isfinite().all()) else float("inf")
    return worst


class ProgramWriter(Writer):
    """Base of the formats of programs: a file for each effort and stage."""

    parts: ClassVar[tuple[str, ...]] = ("denoiser", "network")

    def write(self, subject: Subject, folder: Path) -> list[Written]:
        """See `Writer.write`."""
        written = []
        for program in programs(subject):
            stem = subject.stem(program.effort, *([f"{program.side}px"] if program.staged else []))
            file = folder / f"{stem}{self.suffix}"
            about = {"part": subject.part, "effort": program.effort, "inputs": program.inputs[:-1]}
            about |= {"outputs": program.inputs[-1:], "times": program.times} | dict(subject.about)
            try:
                call = self.write_program(program, about, file, f"the {subject.part} of {subject.name}")
                difference = differences(program, call)
            except RuntimeError as error:
                raise UserError(f"{file.name} does not run ({reason_of(error)})", OTHERWISE) from error
            if not difference <= TOLERANCE:
                what = (
                    f"the outputs of {file.name} differ by {difference:.1g} from the network's, and may by {TOLERANCE}"
                )
                raise UserError(what, OTHERWISE)
            written.append(
                Written(
                    path=file.relative_to(folder),
                    effort=program.effort,
                    side=program.side,
                    times=program.times if program.staged else None,
                    difference=difference,
                    inputs=program.inputs,
                )
            )
        return written

    @abstractmethod
    def write_program(
        self, program: Program, about: dict[str, Any], file: Path, what: str
    ) -> Callable[[Tensors], Tensor]:
        """Write one program.

        Args:
            program: The program.
            about: What the file shall tell of itself, in plain values.
            file: Where to.
            what: What it is, for errors.

        Returns:
            What runs the file that was written.

        Raises:
            UserError: It cannot be traced, or what writes it is not installed.
        """
