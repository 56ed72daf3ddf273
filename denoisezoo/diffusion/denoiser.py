"""Denoisers D(u_t, t) ~ E[u_0 given u_t]: all that trainer, samplers, plans and profiler see of a network."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.archs import Backbone, Effort
from denoisezoo.diffusion.joint import Joint
from denoisezoo.diffusion.linear import PRECONDITIONINGS, Preconditioning
from denoisezoo.diffusion.measured import Measured
from denoisezoo.diffusion.noise import Noise
from denoisezoo.diffusion.process import PROCESSES, Process, ScalarProcess
from denoisezoo.diffusion.processes import DEFAULT_PROCESS
from denoisezoo.errors import UserError


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


class Denoiser(nn.Module):
    """Base of all denoisers.

    Attributes:
        process: The process whose states it denoises.
        efforts: Efforts that `forward` accepts, cheapest first.
    """

    process: Process
    efforts: tuple[Effort, ...] = (1.0,)

    @abstractmethod
    def forward(
        self,
        u_t: Tensor,
        t: Tensor,
        *,
        label: Tensor | None = None,
        cond: Tensor | None = None,
        augment: Tensor | None = None,
        effort: Effort | None = None,
    ) -> Prediction:
        """Denoise.

        Args:
            u_t: States (B, C, H, W), float32 or float64.
            t: Times (B,), float64 where precision matters.
            label: Class labels (B,), int64.
            cond: Conditioning image (B, Cc, H, W).
            augment: Augmentation labels (B, A).
            effort: How much of the network to use; None is all of it.

        Returns:
            Estimates in the dtype of `u_t`.
        """

    def training_error(
        self,
        u_0: Tensor,
        eps: Tensor,
        t: Tensor,
        *,
        label: Tensor | None = None,
        cond: Tensor | None = None,
        augment: Tensor | None = None,
        effort: Effort | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What training makes small.

        Args:
            u_0: Clean states (B, C, H, W).
            eps: Noise (B, C, H, W).
            t: Times (B,).
            label: As for `forward`.
            cond: As for `forward`.
            augment: As for `forward`.
            effort: As for `forward`.

        Returns:
            The error of the network's own output (B, C, H, W), and the factor, (B,) or a map, by which it becomes an
            error of u_0. A denoiser without an output of its own errs on u_0 itself.
        """
        u_t = self.process.perturb(u_0, eps, t)
        found = self(u_t, t, label=label, cond=cond, augment=augment, effort=effort)
        return found.u_0 - u_0, torch.ones_like(t)


class NetworkDenoiser(Denoiser):
    """A backbone with the preconditioning for one process.

    Args:
        backbone: The raw network F.
        process: The process.
        preconditioning: How F's input and output relate to u_t and u_0.
    """

    def __init__(self, backbone: Backbone, process: Process, preconditioning: Preconditioning) -> None:
        super().__init__()
        preconditioning.check(process)
        process.check_images(backbone.spec.resolution, len(backbone.resolutions))
        process.image_channels(backbone.spec.in_channels)
        _check_size(backbone, process, preconditioning)
        self.backbone = backbone
        self.process = process
        self.preconditioning = preconditioning
        self._check_outputs()
        self.efforts = backbone.efforts
        self.training = backbone.training  # else a backbone in eval mode would drop out again once `train` is passed on

    def outputs_for(self, channels: int) -> int:
        """Channels that a network puts out for images of so many."""
        whole = self.process.state_channels(channels)
        return channels if self.preconditioning.of_image or isinstance(self.process, Joint) else whole

    def _check_outputs(self) -> None:
        """Refuse a network that puts out fewer channels than are to be predicted, or others that nothing trains.

        Twice as many are those of a learned variance (improved DDPM, arXiv 2102.09672): the second half is not read.
        """
        found, channels = self.backbone.spec.out_channels, self.image_shape[0]
        self.process.check_outputs(found)
        needed = self.outputs_for(channels)
        learned = () if self.preconditioning.of_image else (2 * needed,)
        if found in (needed, *learned) or isinstance(self.process, Joint):
            return
        cure = f"add --model.network.out_channels {needed}"
        if self.process.k == 1:
            cure += f", or --model.network.in_channels {found} for images of as many channels"
        raise UserError(
            f"the network puts out {found} channels, and {needed} are to be predicted for images of {channels}", cure
        )

    @property
    def untrained(self) -> int:
        """Output channels that no objective trains: those of a learned variance."""
        return max(0, self.backbone.spec.out_channels - self.process.state_channels(self.image_shape[0]))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images; the state may have more channels."""
        spec = self.backbone.spec
        return self.process.image_channels(spec.in_channels), spec.resolution, spec.resolution

    @property
    def cond_shape(self) -> tuple[int, int, int] | None:
        """(Cy, H, W) of the condition that it is given, whoever takes it; None where there is none."""
        spec = self.backbone.spec
        channels = self.process.given_channels or spec.cond_channels
        return (channels, spec.resolution, spec.resolution) if channels else None

    def network(
        self,
        u_t: Tensor,
        t: Tensor,
        *,
        label: Tensor | None = None,
        cond: Tensor | None = None,
        augment: Tensor | None = None,
        effort: Effort | None = None,
    ) -> Tensor:
        """F(c_in u_t; c_noise): what the network predicts, in the basis and the dtype of its input."""
        outputs = self._outputs(u_t, t, label=label, cond=cond, augment=augment, effort=effort)
        return self.process.from_pixels(outputs[:, : u_t.shape[1]])

    def _outputs(
        self,
        u_t: Tensor,
        t: Tensor,
        *,
        label: Tensor | None,
        cond: Tensor | None,
        augment: Tensor | None,
        effort: Effort | None,
    ) -> Tensor:
        """All that the network puts out, in its own basis, in the dtype of its input."""
        scaled, c_noise = self.preconditioning.inputs(self.process, self.process.seen(u_t, t), t)
        x = self.process.to_pixels(scaled)
        dtype = next(self.backbone.parameters()).dtype
        outputs: Tensor = self.backbone(
            x.to(dtype),
            c_noise.to(dtype if dtype is torch.float64 else torch.float32),
            label=label,
            cond=None if cond is None else cond.to(dtype),
            augment=None if augment is None else augment.to(dtype),
            effort=effort,
        )
        return outputs.to(u_t.dtype)

    def forward(
        self,
        u_t: Tensor,
        t: Tensor,
        *,
        label: Tensor | None = None,
        cond: Tensor | None = None,
        augment: Tensor | None = None,
        effort: Effort | None = None,
    ) -> Prediction:
        """Denoise; see `Denoiser.forward`. With learned variance the first C outputs are F, and the others v."""
        outputs, C = self._outputs(u_t, t, label=label, cond=cond, augment=augment, effort=effort), u_t.shape[1]
        F_x = self.process.from_pixels(outputs[:, :C])
        u_0, eps = self.preconditioning.prediction(self.process, u_t, t, F_x)
        # In another basis than the pixels' v would say nothing of the state's coefficients.
        learned = self.backbone.spec.learned_variance and isinstance(self.process, ScalarProcess)
        return Prediction(u_0, eps, outputs[:, C:] if learned else None)

    def training_error(
        self,
        u_0: Tensor,
        eps: Tensor,
        t: Tensor,
        *,
        label: Tensor | None = None,
        cond: Tensor | None = None,
        augment: Tensor | None = None,
        effort: Effort | None = None,
    ) -> tuple[Tensor, Tensor]:
        """F minus its target, and c_out; see `Denoiser.training_error`.

        Where coefficients have left the state, their error is zero, and that of the others is scaled so that its mean
        square is the mean over those that are left.
        """
        given = {"label": label, "cond": cond, "augment": augment}
        if len(self.process.stages) > 1:
            error = self._error_by_stage(u_0, eps, t, given, effort)
        else:
            error = self._error(u_0, eps, t, given, effort)
        return error, self.preconditioning.c_out(self.process, t)

    def _error_by_stage(
        self, u_0: Tensor, eps: Tensor, t: Tensor, given: dict[str, Tensor | None], effort: Effort | None
    ) -> Tensor:
        """One call of the network for the images of each stage."""
        halvings = torch.tensor([self.process.dropped(time) for time in t.tolist()])
        error = torch.zeros_like(u_0)
        for n in halvings.unique().tolist():
            chosen = (halvings == n).nonzero().flatten().to(u_0.device)
            m = n - self.preconditioning.enlarges  # halvings of what the network answers
            part = {key: None if value is None else value[chosen] for key, value in given.items()}
            found = self._error(cropped(u_0[chosen], m), cropped(eps[chosen], n), t[chosen], part, effort)
            H, W = found.shape[-2:]
            error = error.index_put((chosen,), F.pad(found * 2.0**m, (0, error.shape[-1] - W, 0, error.shape[-2] - H)))
        return error

    def _error(
        self, u_0: Tensor, eps: Tensor, t: Tensor, given: dict[str, Tensor | None], effort: Effort | None
    ) -> Tensor:
        u_t = self.process.perturb(u_0[..., : eps.shape[-2], : eps.shape[-1]], eps, t)
        F_x = self.network(u_t, t, **given, effort=effort)
        # A network may leave out the last parts of the state, such as a condition.
        return F_x - self.preconditioning.target(self.process, u_0, eps, t)[:, : F_x.shape[1]]


class Given(Denoiser):
    """A denoiser of (x, y) as one of x alone, for a y that is given: every call draws y_t ~ p(y_t | y) afresh.

    CDE, CDiffE and CMDE (Batzolis et al. 2021, arXiv 2111.13606): the x block of the score of (x_t, y_t) stands for
    the score of x_t given y.

    Args:
        denoiser: Of a process that has a condition in its state.
        cond: The condition (B, Cy, H, W).
        noise: Source of the noise of y_t.
    """

    def __init__(self, denoiser: Denoiser, cond: Tensor, noise: Noise = None) -> None:
        super().__init__()
        joint = denoiser.process
        if not isinstance(joint, Joint):
            raise UserError(f"{type(joint).__name__} has no condition in its state", "use Joint")
        self.denoiser, self.joint, self.noise = denoiser, joint, noise
        self.process, self.efforts = joint.free, denoiser.efforts
        self.y = joint.begin(cond, noise)

    def forward(
        self,
        u_t: Tensor,
        t: Tensor,
        *,
        label: Tensor | None = None,
        cond: Tensor | None = None,
        augment: Tensor | None = None,
        effort: Effort | None = None,
    ) -> Prediction:
        """Denoise x_t (B, C, H, W); see `Denoiser.forward`."""
        _check_sizes(self.y, u_t)
        u = torch.cat([u_t, self.joint.diffuse(self.y.to(u_t), t, self.noise)], dim=1)
        found: Prediction = self.denoiser(u, t, label=label, augment=augment, effort=effort)
        C = u_t.shape[1]
        return Prediction(found.u_0[:, :C], found.eps[:, :C])


class Matched(Denoiser):
    """An unconditional denoiser as one of x given a measurement y = x + s n: see `denoisezoo.diffusion.measured`.

    Args:
        denoiser: Of a `Measured` process.
        cond: y and ln s, (B, C + 1, H, W).

    Raises:
        UserError: Conditions with other channels, or with several noise levels in an image.
    """

    def __init__(self, denoiser: Denoiser, cond: Tensor) -> None:
        super().__init__()
        assert isinstance(denoiser.process, Measured)
        denoiser.process.check_condition(cond)
        self.denoiser, self.measured, self.cond = denoiser, denoiser.process, cond
        self.process, self.efforts = denoiser.process.free, denoiser.efforts

    def forward(
        self,
        u_t: Tensor,
        t: Tensor,
        *,
        label: Tensor | None = None,
        cond: Tensor | None = None,
        augment: Tensor | None = None,
        effort: Effort | None = None,
    ) -> Prediction:
        """The image from u_t and y together, and the noise that it leaves in u_t."""
        _check_sizes(self.cond, u_t)
        v, t_c = self.measured.combine(u_t, t, self.cond)
        u_0 = self.denoiser(v, t_c, label=label, augment=augment, effort=effort).u_0
        alpha, sigma = (part.to(u_t).reshape(-1, 1, 1, 1) for part in (self.measured.alpha(t), self.measured.sigma(t)))
        return Prediction(u_0, (u_t - alpha * u_0) / sigma)


def _check_sizes(y: Tensor, u_t: Tensor) -> None:
    if y.shape[-2:] != u_t.shape[-2:] or len(y) != len(u_t):
        raise UserError(
            f"the condition is {_size(y)} and the image {_size(u_t)}", "give one condition per image, of its size"
        )


def _size(x: Tensor) -> str:
    return f"{len(x)} of {x.shape[-2]}x{x.shape[-1]}"


def with_condition(denoiser: Denoiser, cond: Tensor | None, noise: Noise) -> tuple[Denoiser, Tensor | None]:
    """The denoiser to sample x with, and what it has to be given at every call: nothing where y is part of the state.

    Args:
        denoiser: The denoiser.
        cond: The condition (B, Cy, H, W), None for none.
        noise: Source of the noise of y_t.
    """
    if cond is None or not denoiser.process.cond_channels:
        return denoiser, cond
    if isinstance(denoiser.process, Measured):
        return Matched(denoiser, cond), None
    return Given(denoiser, cond, noise), None


def cropped(u: Tensor, halvings: int) -> Tensor:
    """What a state (B, C, H, W) has left after some halvings: its top left."""
    return u[..., : u.shape[-2] >> halvings, : u.shape[-1] >> halvings]


def _check_size(backbone: Backbone, process: Process, preconditioning: Preconditioning) -> None:
    """Refuse networks that keep the size for processes whose steps halve it, and the reverse."""
    halves = process.dropped(process.t_min) > 0
    if halves != (backbone.spec.scale > 1) or halves != preconditioning.enlarges:
        raise UserError(
            f"{type(process).__name__}, {type(preconditioning).__name__} and the network do not fit: one keeps the "
            "size of the image, and another doubles it",
            "use DownSampling, NextScale and a network that doubles the size together, or none of them",
        )


def default_denoiser(backbone: Backbone, process_name: str = DEFAULT_PROCESS) -> NetworkDenoiser:
    """`backbone` under a process with that process's customary preconditioning.

    Args:
        backbone: The raw network.
        process_name: A name in `PROCESSES`.
    """
    process = PROCESSES[process_name].for_images(backbone.spec.resolution, len(backbone.resolutions))
    return NetworkDenoiser(backbone, process, PRECONDITIONINGS[process.default_preconditioning]())
