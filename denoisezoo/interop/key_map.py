"""From the tensors of others, by their names, to ours: every one is taken or named, and every shape is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from denoisezoo.errors import UserError

Change = Callable[[Tensor], Tensor]
SHOWN = 10
"""How many tensors that do not fit an error names."""


class KeyMap:
    """Collects the weights of one of our networks from those of another's.

    What does not fit is collected, too, and told by `finish`.

    Args:
        network: Ours, on any device, such as "meta"; its weights are not touched.
        theirs: Their tensors by name.
        path: Their file.
        cure: What may be wrong, for the error.
        of: Which of several networks in that file it is, for the error.
    """

    def __init__(
        self, network: nn.Module, theirs: Mapping[str, Tensor], path: Path, cure: str, of: str | None = None
    ) -> None:
        self.network, self.theirs, self.path, self.cure = network, theirs, path, cure
        self.whose = "" if of is None else f"of {of} "
        self.shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        self.ours: dict[str, Tensor] = {}
        self.taken: set[str] = set()
        self.problems: list[str] = []

    def copy(self, ours: str, theirs: str, change: Change | None = None) -> None:
        """Take one tensor as ours."""
        self.join(ours, [theirs], change)

    def join(
        self, ours: str, theirs: Iterable[str], change: Change | None = None, rows: Sequence[int] | None = None
    ) -> None:
        """Take several tensors, each changed, one below the other, as ours.

        Args:
            ours: Our name.
            theirs: Their names.
            change: What is done to each.
            rows: How many rows each has; equally many unless given.
        """
        names = list(theirs)
        self.taken.update(names)
        missing = [name for name in names if name not in self.theirs]
        self.problems += [f"{name} is missing" for name in missing]
        if missing:
            return
        parts = [self.theirs[name] for name in names]
        try:
            found = torch.cat([part if change is None else change(part) for part in parts])
            fits = found.shape == self.shapes[ours]
        except (RuntimeError, IndexError, ValueError):
            fits = False
        if fits:
            self.ours[ours] = found.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        elif len(names) == 1:
            self.problems.append(f"{names[0]} is {_shape(parts[0])} and should give {self._needed(ours)}")
        else:
            shapes = "+".join(_shape(part) for part in parts[:4]) + ("+..." if len(parts) > 4 else "")
            self.problems.append(
                f"{names[0]} and {len(names) - 1} more are {shapes} and should give {self._needed(ours)}"
            )

    def layer(self, ours: str, theirs: str, change: Change | None = None) -> None:
        """Take weight and bias of a layer, or the one that ours has."""
        for name in ("weight", "bias"):
            if f"{ours}.{name}" in self.shapes:
                self.copy(f"{ours}.{name}", f"{theirs}.{name}", change)

    def drop(self, *theirs: str) -> None:
        """Leave tensors aside that say nothing new."""
        self.taken.update(theirs)

    def complain(self, problem: str) -> None:
        """Note something else that does not fit."""
        self.problems.append(problem)

    def finish(self) -> dict[str, Tensor]:
        """Our weights, all of them, float32.

        Raises:
            UserError: Naming the first ten tensors that are missing, left over, of another shape or not finite.
        """
        extra = [name for name in self.theirs if name not in self.taken]
        problems = [*self.problems, *(f"{name} {_shape(self.theirs[name])} is unknown" for name in extra)]
        problems += [f"{name} holds NaN or infinity" for name, value in self.ours.items() if not value.isfinite().all()]
        if not problems:
            problems = [
                f"nothing gives {name} {_shape_of(self.shapes[name])}" for name in self.shapes if name not in self.ours
            ]
        if problems:
            more = f", and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            listed = ", ".join(problems[:SHOWN])
            raise UserError(f"the weights {self.whose}in {self.path} do not fit: {listed}{more}", self.cure)
        return self.ours

    def _needed(self, ours: str) -> str:
        return _shape_of(self.shapes[ours])


class InverseMap(KeyMap):
    """Collects another's weights from those of one of our networks, by the calls that would read them.

    Args:
        network: Ours.

    Attributes:
        found: Their tensors by name, float32.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, {}, Path(), "")
        self.state, self.found = network.state_dict(), dict[str, Tensor]()

    def join(
        self, ours: str, theirs: Iterable[str], change: Change | None = None, rows: Sequence[int] | None = None
    ) -> None:
        """Give ours as several tensors."""
        names, value = list(theirs), self.state[ours].detach().to("cpu", torch.float32)
        for name, part in zip(names, value.split(rows or value.shape[0] // len(names)), strict=True):
            if change is not None and not torch.equal(change(part), part):
                raise ValueError(f"{name} cannot be written: its change is not undone here")
            self.found[name] = part.clone(memory_format=torch.contiguous_format)


def _shape(tensor: Tensor) -> str:
    return _shape_of(tuple(tensor.shape))


def _shape_of(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


def matrix(weight: Tensor) -> Tensor:
    """A 1x1 convolution (O, I, 1, ...) as the linear layer (O, I) that it is; biases stay."""
    return weight if weight.ndim < 3 else weight.reshape(weight.shape[0], weight.shape[1:].numel())
