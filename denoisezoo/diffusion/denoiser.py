"""Denoisers D(u_t, t) ~ E[u_0 given u_t]: all that trainer, samplers, plans and profiler see of a network."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from denoisezoo.archs import Effort
from denoisezoo.diffusion.codecs import Codec, Pixels
from denoisezoo.diffusion.coefficients import apply_blocks
from denoisezoo.diffusion.processes.process import Process, times_for
from denoisezoo.errors import UserError
from denoisezoo.nn.given import NOTHING, Given

if TYPE_CHECKING:
    from denoisezoo.diffusion.generate import Samples
    from denoisezoo.diffusion.samplers.sampler import EffortPlan, Sampler


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says about u_t = A_t u_0 + R_t eps.

    Attributes:
        u_0: Estimate of the clean state (B, C, H, W), E[u_0 given u_t]; (B, C, 2H, 2W) where the network enlarges, with
            what enters the state next.
        eps: The noise that belongs to it (B, C, H, W).
        variance: v of improved DDPM (arXiv 2102.09672, equation 15), where the logarithm of a reverse step's variance
            lies from its smallest, -1, to its largest, 1, (B, C, H, W); None where the network learns none.
    """

    u_0: Tensor
    eps: Tensor
    variance: Tensor | None = None


def slope(process: Process, prediction: Prediction, t: Tensor) -> Tensor:
    """du/dt along the probability flow, from a prediction at time t, () or (B,): A' u_0 + R' eps, for any process."""
    A_dot, R_dot = process.rates(times_for(process, prediction.u_0, t.reshape(-1)))
    return apply_blocks(A_dot, prediction.u_0) + apply_blocks(R_dot, prediction.eps)


class Denoiser(nn.Module):
    """Base of all denoisers.

    Attributes:
        process: The process whose states it denoises.
        codec: What is diffused in place of pixels; its latents are the images of the process. A denoiser around another
            one has that one's.
        efforts: Efforts that `forward` accepts, cheapest first.
        second_time: Whether it is told where a jump ends, `Given.until`, as flow maps are.
        run: Its history (`denoisezoo.Run`) where it was loaded; None elsewhere.
    """

    run: Any = None
    process: Process
    efforts: tuple[Effort, ...] = (1.0,)
    second_time: bool = False
    codec: Codec

    def __init__(self) -> None:
        super().__init__()
        self.codec = Pixels()

    @abstractmethod
    def forward(self, u_t: Tensor, t: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Prediction:
        """Denoise.

        Args:
            u_t: States (B, C, H, W), float32 or float64.
            t: Times (B,), float64 where precision matters, on the CPU, as samplers give them, or where the states are:
                what has to be decided by a time makes nobody wait on the CPU.
            given: What else the network is told: label, conditioning image (its latents), ...
            effort: How much of the network to use; None is all of it.

        Returns:
            Estimates in the dtype of `u_t`.
        """

    def velocity(self, u_t: Tensor, t: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """du/dt of the probability flow, A' u_0 + R' eps with what is predicted for both (gDDIM, equation 4).

        A pure function of its arguments: `torch.func.jvp` goes through it with respect to u_t, t and `given`. A network
        trained as a flow map puts out its mean velocity between `given.until` and t here.

        Args:
            u_t: As for `forward`.
            t: As for `forward`.
            given: As for `forward`.
            effort: As for `forward`.

        Returns:
            (B, C, H, W), per unit of the process's time, in the dtype of `u_t`.

        Raises:
            UserError: The state has no velocity: the prediction is of another size, as where steps halve the image.
        """
        prediction: Prediction = self(u_t, t, given, effort)
        if prediction.u_0.shape != u_t.shape:
            what = f"states of {type(self.process).__name__} jump from size to size, and have no velocity"
            raise UserError(what, "use a process in continuous time, such as EDM, VP or RectifiedFlow")
        return slope(self.process, prediction, t)

    def sample(
        self,
        num: int,
        *,
        sampler: str | Sampler = "heun",
        steps: int = 18,
        seed: int = 0,
        plan: EffortPlan | None = None,
        given: Given = NOTHING,
        batch_size: int = 256,
        progress: bool = True,
    ) -> Samples:
        """Draw images; image i depends on seed + i alone, whatever the batch size.

        Args:
            num: How many.
            sampler: A sampler, or its name with options, such as "ddim:eta=0.5".
            steps: Its steps.
            seed: Seed of the first image.
            plan: How much of the network to use at each noise level; all of it unless given.
            given: What the images are told, (num, ...), on any device; conditioning images are images, not latents.
            batch_size: Images at a time.
            progress: Show a progress bar where somebody watches.

        Raises:
            UserError: An unknown sampler, or one that cannot walk this process.
        """
        from denoisezoo.diffusion.generate import generate
        from denoisezoo.diffusion.samplers import create_sampler
        from denoisezoo.progress import progress_bar

        chosen = create_sampler(sampler) if isinstance(sampler, str) else sampler
        weight = next((x for x in (*self.parameters(), *self.buffers())), None)
        device = "cpu" if weight is None else weight.device
        was_training = self.training
        self.eval()
        try:
            with progress_bar("sampling", num) if progress else contextlib.nullcontext() as report:
                return generate(
                    self,
                    chosen,
                    num,
                    self.image_shape,
                    steps=steps,
                    first_seed=seed,
                    batch_size=batch_size,
                    given=given,
                    plan=plan,
                    device=device,
                    progress=report,
                )
        finally:
            self.train(was_training)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that it makes, decoded.

        Raises:
            UserError: It does not know.
        """
        raise UserError(f"{type(self).__name__} does not know the size of its images", "call the sampler yourself")

    def blank(self, batch_size: int = 1, device: torch.device | str | None = None) -> Given:
        """All that images are told, as zeros, the conditioning image not encoded: what sampling is priced with."""
        return NOTHING

    def output_scale(self, t: Tensor) -> Tensor:
        """Factor by which an error of the network's own output becomes one of u_0, (B,) or a map; 1 without a network.

        Args:
            t: Times (B,).
        """
        return torch.ones_like(t)

    def training_error(
        self, u_0: Tensor, eps: Tensor, t: Tensor, given: Given = NOTHING, effort: Effort | None = None
    ) -> tuple[Tensor, Tensor]:
        """What training makes small.

        Args:
            u_0: Clean states (B, C, H, W).
            eps: Noise (B, C, H, W).
            t: Times (B,).
            given: As for `forward`.
            effort: As for `forward`.

        Returns:
            The error of the network's own output (B, C, H, W), and the factor, (B,) or a map, by which it becomes an
            error of u_0. A denoiser without an output of its own errs on u_0 itself.
        """
        u_t = self.process.perturb(u_0, eps, t)
        found = self(u_t, t, given, effort)
        return found.u_0 - u_0, torch.ones_like(t)
