"""The opponent in training: its gradient and its optimiser, beside Lightning's automatic optimisation of the denoiser.

Both gradients of a step are there before either network changes, so that the guard judges them together, and parts of
a batch (accumulated, or on several devices) add up as they do for the denoiser.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from denoisezoo.errors import UserError
from denoisezoo.train.optimizer import OptimizerConfig
from denoisezoo.train.precision import scaler_of

ADAM = OptimizerConfig(name="adam", lr=1e-4)
"""UDPM's optimiser of the discriminator."""


class Opponent:
    """The adversary of an objective, with its optimiser.

    Args:
        network: The adversary.
        config: Its optimiser.
    """

    def __init__(self, network: nn.Module, config: OptimizerConfig) -> None:
        self.network, self.config = network.requires_grad_(False), config
        self.optimizer: torch.optim.Optimizer | None = None
        self._state: dict[str, Any] | None = None
        self._sum: tuple[Tensor, dist.Work] | None = None

    def start(self, trainer: Any) -> None:
        """Build the optimiser on the device of training, with the state of a checkpoint if there is one.

        Raises:
            UserError: Several processes that scale the loss: each would find a scale of its own for the adversary's
                gradients, which are averaged after the guard has seen them.
        """
        if scaler_of(trainer) is not None and trainer.world_size > 1:
            raise UserError(
                f"precision {trainer.precision} scales the adversary's loss, which {trainer.world_size} processes "
                "would do in different ways",
                "use `trainer.precision=bf16-mixed`, or one device",
            )
        self.trains(True)  # optimisers take what is trained alone
        self.optimizer = self.config.build(self.network)
        self.trains(False)
        if self._state is not None:
            self.optimizer.load_state_dict(self._state)

    def trains(self, active: bool) -> None:
        """Let gradients into the adversary's weights, or keep them out; through it they always pass."""
        self.network.requires_grad_(active)

    def forget(self) -> None:
        """Drop the gradient: of a step that is done, or cannot be."""
        self.trains(False)
        self.network.zero_grad(set_to_none=True)

    def backward(self, trainer: Any, loss: Tensor) -> None:
        """Add the gradient of one part's loss, scaled as the denoiser's is."""
        loss = loss / trainer.accumulate_grad_batches
        scaler = scaler_of(trainer)
        (loss if scaler is None else scaler.scale(loss)).backward()

    def send(self, trainer: Any) -> None:
        """Begin to add up the gradients of all processes, once in a step; the denoiser's passes go on meanwhile.

        A process that has none, because its batch could not be computed, takes part with zeros.
        """
        if trainer.world_size == 1 or self._sum is not None:
            return
        weights = list(self.network.parameters())
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in weights])
        self._sum = flat, dist.all_reduce(flat, async_op=True)

    def _receive(self, world_size: int) -> None:
        """Take the mean of all processes, unless the guard has taken the gradients away."""
        if self._sum is None:
            return
        (flat, work), self._sum = self._sum, None
        work.wait()
        weights = list(self.network.parameters())
        for parameter, mean in zip(weights, flat.div_(world_size).split([p.numel() for p in weights]), strict=True):
            if parameter.grad is not None:
                parameter.grad = mean.view_as(parameter)

    def close(self, trainer: Any, closure: Callable[[], Any]) -> Any:
        """Run the closure of a step, which computes all gradients, and divide the adversary's by the scale.

        What overflows in them lowers the scale at the step's end, as it does in the denoiser's.
        """
        assert self.optimizer is not None, "training has started"
        found = closure()
        scaler = scaler_of(trainer)
        if scaler is not None and found is not None:  # without a loss Lightning leaves the scaler out
            scaler.unscale_(self.optimizer)
        return found

    def step(self, trainer: Any, max_steps: float) -> None:
        """Step with what was added, unless the guard has taken it away, and begin anew."""
        assert self.optimizer is not None, "training has started"
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * self.config.factor(trainer.global_step, max_steps)
        self._receive(trainer.world_size)
        self.optimizer.step()
        self.forget()

    def state_dict(self) -> dict[str, Any] | None:
        """The optimiser's state; None before training."""
        return None if self.optimizer is None else self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on from the state of a checkpoint when training starts."""
        self._state = state
