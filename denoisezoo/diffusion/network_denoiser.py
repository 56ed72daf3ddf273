"""The denoiser of a network: backbone, preconditioning for one process, and codec."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from denoisezoo.archs import Backbone, Effort, create_backbone
from denoisezoo.diffusion.capabilities import (
    ConditionInState,
    Halving,
    dropped_at,
    given_channels,
    shown,
    stages_of,
)
from denoisezoo.diffusion.codecs import Codec, Pixels, create_codec
from denoisezoo.diffusion.denoiser import Denoiser, Prediction
from denoisezoo.diffusion.linear_preconditioning import PRECONDITIONINGS, Preconditioning
from denoisezoo.diffusion.processes.process import PROCESSES, Process, ScalarProcess, times_for
from denoisezoo.diffusion.processes.scalar import DEFAULT_PROCESS
from denoisezoo.errors import UserError
from denoisezoo.nn.forward_mode import attention_for
from denoisezoo.nn.given import NOTHING, Given
from denoisezoo.nn.transfer import to_device


class NetworkDenoiser(Denoiser):
    """A backbone with the preconditioning for one process, and the codec whose latents it denoises.

    Size and channels of the backbone and of the process are those of latents. A conditioning image is encoded by the
    same codec as the image, so that the backbone's `cond_channels` are channels of latents too. The codec is frozen: it
    is moved, cast and saved with the denoiser, and is not trained, averaged or counted among its parameters.

    Args:
        backbone: The raw network F.
        process: The process.
        preconditioning: How F's input and output relate to u_t and u_0.
        codec: What is diffused in place of pixels; pixels unless given. It is frozen here.

    Raises:
        UserError: Parts that do not fit.
    """

    def __init__(
        self, backbone: Backbone, process: Process, preconditioning: Preconditioning, codec: Codec | None = None
    ) -> None:
        super().__init__()
        preconditioning.check(process)
        check_images(process, backbone.spec.resolution, len(backbone.resolutions))
        process.basis.image_channels(backbone.spec.in_channels)
        _check_size(backbone, process, preconditioning)
        _check_forward(backbone)
        self.backbone = backbone
        self.process = process
        self.preconditioning = preconditioning
        self.codec = (codec or Pixels()).requires_grad_(False).eval()
        self._image_shape = self._decoded_shape(*self.latent_shape)
        channels = given_channels(process) or backbone.spec.cond_channels
        self._cond_shape = self._decoded_shape(channels, *self.latent_shape[1:]) if channels else None
        self._check_outputs()
        self.efforts, self.second_time = backbone.efforts, backbone.spec.second_time
        self.training = backbone.training  # else a backbone in eval mode would drop out again once `train` is passed on

    def with_backbone(self, backbone: Backbone) -> NetworkDenoiser:
        """A denoiser of the same process, preconditioning and codec around another network."""
        return NetworkDenoiser(backbone, self.process, self.preconditioning, self.codec)

    def _decoded_shape(self, C: int, H: int, W: int) -> tuple[int, int, int]:
        """(C, H, W) of the images whose latents (C', H', W') the network takes."""
        image = self.codec.image_shape(C, H, W)
        if (made := self.codec.latent_shape(*image)) != (C, H, W):
            made_text, needed_text = ("x".join(map(str, shape)) for shape in (made, (C, H, W)))
            raise UserError(
                f"codec {self.codec.title} makes latents of {made_text}, and the network takes {needed_text}",
                "give the network the channels and the resolution of latents, or choose another codec",
            )
        return image

    def outputs_for(self, channels: int) -> int:
        """Channels that a network puts out for latents of so many."""
        if self.preconditioning.of_image or isinstance(self.process, ConditionInState):
            return channels
        return self.process.basis.state_channels(channels)

    def _check_outputs(self) -> None:
        """Refuse a network that puts out fewer channels than are to be predicted, or others that nothing trains.

        Twice as many are those of a learned variance (improved DDPM, arXiv 2102.09672): the second half is not read.
        """
        found, channels = self.backbone.spec.out_channels, self.latent_shape[0]
        if isinstance(self.process, ConditionInState):
            self.process.check_outputs(found)
            return
        needed = self.outputs_for(channels)
        learned = () if self.preconditioning.of_image else (2 * needed,)
        if found in (needed, *learned):
            return
        cure = f"set network.out_channels to {needed}"
        if self.process.basis.k == 1:
            cure += f", or network.in_channels to {found} for images of as many channels"
        raise UserError(
            f"the network puts out {found} channels, and {needed} are to be predicted for images of {channels}", cure
        )

    @property
    def untrained(self) -> int:
        """Output channels that no objective trains: those of a learned variance."""
        return max(0, self.backbone.spec.out_channels - self.process.basis.state_channels(self.latent_shape[0]))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images, before they are encoded and after latents are decoded."""
        return self._image_shape

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C', H', W') of the images' latents, of which the process makes states; these may have more channels."""
        spec = self.backbone.spec
        return self.process.basis.image_channels(spec.in_channels), spec.resolution, spec.resolution

    @property
    def cond_shape(self) -> tuple[int, int, int] | None:
        """(Cy, H, W) of the conditioning image before it is encoded, whoever takes it; None where there is none."""
        return self._cond_shape

    def blank(self, batch_size: int = 1, device: torch.device | str | None = None) -> Given:
        """All that images are told, as zeros, the conditioning image not encoded: what sampling is priced with."""
        spec, B = self.backbone.spec, batch_size
        return Given(
            label=torch.zeros(B, dtype=torch.int64, device=device) if spec.num_classes else None,
            image=torch.zeros(B, *self.cond_shape, device=device) if self.cond_shape else None,
            tokens=torch.zeros(B, spec.tokens, spec.token_dim, device=device) if spec.token_dim else None,
        )

    def network(self, u_t: Tensor, t: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """F(c_in u_t; c_noise): what the network predicts, in the basis and the dtype of its input."""
        return self.process.basis.from_pixels(self._outputs(u_t, t, given, effort)[:, : u_t.shape[1]])

    def _outputs(self, u_t: Tensor, t: Tensor, given: Given, effort: Effort | None) -> Tensor:
        """All that the network puts out, in its own basis, in the dtype of its input."""
        scaled, c_noise = self.preconditioning.inputs(self.process, shown(self.process, u_t, t), t)
        x = self.process.basis.to_pixels(scaled)
        dtype = next(self.backbone.parameters()).dtype
        time = dtype if dtype is torch.float64 else torch.float32
        if given.until is not None:  # told in the unit of c_noise, which may have no number for the image itself
            s = times_for(self.process, u_t, given.until.to(t.dtype).clamp(min=self.process.t_min))
            until = self.preconditioning.inputs(self.process, u_t, s)[1].to(time)
            given = given._replace(until=to_device(until, x.device))
        c_noise = to_device(c_noise.to(time), x.device)
        with attention_for(x, c_noise, *given):
            outputs: Tensor = self.backbone(x.to(dtype), c_noise, given.to(dtype=dtype), effort)
        return outputs.to(u_t.dtype)

    def forward(self, u_t: Tensor, t: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Prediction:
        """Denoise; see `Denoiser.forward`. With learned variance the first C outputs are F, and the others v."""
        t = times_for(self.process, u_t, t)
        outputs, C = self._outputs(u_t, t, given, effort), u_t.shape[1]
        F_x = self.process.basis.from_pixels(outputs[:, :C])
        u_0, eps = self.preconditioning.prediction(self.process, u_t, t, F_x)
        # In another basis than the pixels' v would say nothing of the state's coefficients.
        learned = self.backbone.spec.learned_variance and isinstance(self.process, ScalarProcess)
        return Prediction(u_0, eps, outputs[:, C:] if learned else None)

    def training_error(
        self, u_0: Tensor, eps: Tensor, t: Tensor, given: Given = NOTHING, effort: Effort | None = None
    ) -> tuple[Tensor, Tensor]:
        """F minus its target, and c_out; see `Denoiser.training_error`.

        Where coefficients have left the state, their error is zero, and that of the others is scaled so that its mean
        square is the mean over those that are left.
        """
        if len(stages_of(self.process)) > 1:
            error = self._error_by_stage(u_0, eps, t, given, effort)
        else:
            error = self._error(u_0, eps, t, given, effort)
        return error, self.output_scale(times_for(self.process, u_0, t))

    def output_scale(self, t: Tensor) -> Tensor:
        """c_out; see `Denoiser.output_scale`."""
        return self.preconditioning.c_out(self.process, t)

    def _error_by_stage(self, u_0: Tensor, eps: Tensor, t: Tensor, given: Given, effort: Effort | None) -> Tensor:
        """One call of the network for the images of each stage."""
        halvings = torch.tensor([dropped_at(self.process, time) for time in t.tolist()])
        error = torch.zeros_like(u_0)
        for n in halvings.unique().tolist():
            here = (halvings == n).nonzero().flatten()  # by numbers of the host, on the CPU
            chosen, times = to_device(here, u_0.device), t[here.to(t.device)]
            m = n - self.preconditioning.enlarges  # halvings of what the network answers
            part = given.take(chosen)
            found = self._error(cropped(u_0[chosen], m), cropped(eps[chosen], n), times, part, effort)
            H, W = found.shape[-2:]
            error = error.index_put((chosen,), F.pad(found * 2.0**m, (0, error.shape[-1] - W, 0, error.shape[-2] - H)))
        return error

    def _error(self, u_0: Tensor, eps: Tensor, t: Tensor, given: Given, effort: Effort | None) -> Tensor:
        t = times_for(self.process, u_0, t)
        u_t = self.process.perturb(u_0[..., : eps.shape[-2], : eps.shape[-1]], eps, t)
        F_x = self.network(u_t, t, given, effort)
        # A network may leave out the last parts of the state, such as a condition.
        return F_x - self.preconditioning.target(self.process, u_0, eps, t)[:, : F_x.shape[1]]


def cropped(u: Tensor, halvings: int) -> Tensor:
    """What a state (B, C, H, W) has left after some halvings: its top left."""
    return u[..., : u.shape[-2] >> halvings, : u.shape[-1] >> halvings]


def check_images(process: Process, resolution: int, stages: int = 1) -> None:
    """Refuse a network of another size than a process, or of several stages where the process has others.

    Raises:
        UserError: Naming both.
    """
    name = type(process).__name__
    if process.resolution not in (None, resolution):
        raise UserError(
            f"{name} is for {process.resolution} pixels a side, and the network for {resolution}",
            f"set process.resolution to {resolution}",
        )
    if stages not in (1, count := len(stages_of(process))):
        raise UserError(
            f"the network has {stages} stages, and {name} {count}",
            "give another `process`, with as many stages as the network",
        )


def _check_size(backbone: Backbone, process: Process, preconditioning: Preconditioning) -> None:
    """Refuse networks that keep the size for processes whose steps halve it, and the reverse."""
    halves = isinstance(process, Halving)
    if halves != (backbone.spec.scale > 1) or halves != preconditioning.enlarges:
        raise UserError(
            f"{type(process).__name__}, {type(preconditioning).__name__} and the network do not fit: one keeps the "
            "size of the image, and another doubles it",
            "use DownSampling, NextScale and a network that doubles the size together, or none of them",
        )


def create_denoiser(
    backbone: str | Backbone,
    process: str | Process = DEFAULT_PROCESS,
    preconditioning: str | Preconditioning | None = None,
    codec: str | Codec | None = None,
    **overrides: Any,
) -> NetworkDenoiser:
    """A denoiser of a network under a process.

    Args:
        backbone: A network, or the name of one in the zoo, which is built with fresh weights.
        process: A process, or the name of one; named ones have their defaults, for images of the network's size.
        preconditioning: How the network's input and output relate to states, or the name of such; the process's
            customary one unless given.
        codec: What is diffused in place of pixels, or its name with options, such as "haar" or "haar:levels=2". Size
            and channels of the network are those of its latents.
        **overrides: Fields of the named network's configuration to change, e.g. `resolution=64`.

    Raises:
        UserError: An unknown name or override, or parts that do not fit.
    """
    if isinstance(backbone, str):
        backbone = create_backbone(backbone, **overrides)
    elif overrides:
        raise UserError(f"{next(iter(overrides))} is given for a network that is there", "leave it out")
    if isinstance(process, str):
        process = PROCESSES[process].for_images(backbone.spec.resolution, len(backbone.resolutions))
    if preconditioning is None:
        preconditioning = process.default_preconditioning
    if isinstance(preconditioning, str):
        preconditioning = PRECONDITIONINGS[preconditioning]()
    return NetworkDenoiser(backbone, process, preconditioning, create_codec(codec))


def _check_forward(backbone: Backbone) -> None:
    """Refuse a network that cannot be called as networks are.

    Raises:
        UserError: Its `forward` takes other arguments.
    """
    try:
        inspect.signature(backbone.forward).bind(None, None, None, None)
    except TypeError as error:
        name = type(backbone).__name__
        raise UserError(
            f"{name}.forward cannot be called with (x, c_noise, given, effort): {error}",
            "write it as `def forward(self, x, c_noise, given=None, effort=None)`",
        ) from None
    except ValueError:  # of a compiled or scripted one, that does not tell
        return
