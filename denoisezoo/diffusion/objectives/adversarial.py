"""Objectives with an opponent: a second network that is trained against the denoiser, beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.archs.discriminator import PUBLISHED, Discriminator, DiscriminatorConfig
from denoisezoo.diffusion.capabilities import Halving, clean_state
from denoisezoo.diffusion.denoiser import Denoiser
from denoisezoo.diffusion.network_denoiser import NetworkDenoiser
from denoisezoo.diffusion.objectives.objective import OBJECTIVES, Case, Loss, Objective, Step
from denoisezoo.diffusion.objectives.times import OneStage
from denoisezoo.diffusion.perceptual import check_perceptual, perceptual_network
from denoisezoo.errors import UserError
from denoisezoo.nn.transfer import to_device

PerceptualFeatures = Callable[[Tensor], Sequence[Tensor]]
"""Images (B, C, H, W) in [-1, 1] to feature maps (B, C_k, H_k, W_k)."""


class _Pair(NamedTuple):
    """True and predicted images of one level, (B, C, H, W) in [-1, 1] for the true ones, and where they come from.

    `seen` is the noisy image below them that they belong to, of their size, where the discriminator is shown it.
    """

    real: Tensor
    fake: Tensor
    t: Tensor
    c_noise: Tensor
    seen: Tensor | None


def no_float16(device: str) -> contextlib.AbstractContextManager[Any]:
    """Within it nothing is computed in float16, in which R1's gradient of a gradient overflows; else as outside."""
    half = device != "meta" and torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    return torch.autocast(device, enabled=False) if half else contextlib.nullcontext()


@OBJECTIVES.register("udpm")
class UDPMLoss(Objective):
    """The three losses of UDPM (arXiv 2305.16269; weights and details as in its code), one level for a whole batch.

    The denoiser's: w_1 |f - H^(l-1) x_0| + w_2 perceptual distance + w_3 softplus(-D(f)); the adversary's: half of
    softplus(-D(real)) + softplus(D(f)), and gamma/2 |grad D(real)|^2 (R1). Images are divided by 2^(l-1) first, which
    makes them block means, and the discriminator sees them with noise, the less the longer training lasts. The
    perceptual distance is that of features, scaled to length 1 at every pixel, squared (LPIPS, arXiv 1801.03924,
    without its learned weights), the mean over layers.

    What differs: both networks step from the same weights, where the code lets the discriminator step first.

    Args:
        l1: w_1 for each level, the finest first.
        perceptual: w_2.
        adversarial: w_3. The discriminator learns at levels that have it alone; with zeros alone there is none.
        r1: gamma.
        shares: How often each level is drawn, relative to the others; without, equally often, as published.
        noise: Standard deviation of the discriminator's input noise at first.
        noise_decay: Factor on it for every 1,000 steps.
        vgg: File of torchvision's VGG-16 weights; without it, the perceptual network is a small classifier that is
            trained on the data.
        discriminator: Sizes of the discriminator.
        pairs: Show the discriminator x_l too, as further channels, so that it judges whether an image belongs to what
            it was made from (Denoising Diffusion GANs, arXiv 2112.07804); without, as published, images alone.
    """

    def __init__(
        self,
        l1: list[float] = [1.0, 1.0, 0.0],  # noqa: B006 (read only; the type is the recipe's)
        perceptual: list[float] = [4.0, 4.0, 0.0],  # noqa: B006
        adversarial: list[float] = [0.2, 0.5, 1.0],  # noqa: B006
        r1: list[float] = [0.025, 0.1, 0.4],  # noqa: B006
        noise: float = 0.4,
        noise_decay: float = 0.99,
        vgg: str | None = None,
        discriminator: DiscriminatorConfig = PUBLISHED,
        pairs: bool = False,
        shares: list[float] | None = None,
    ) -> None:
        self.times, self.adversary = OneStage(in_turn=False), None
        shares = [1.0] * len(l1) if shares is None else shares
        weights = {"l1": l1, "perceptual": perceptual, "adversarial": adversarial, "r1": r1, "shares": shares}
        for name, values in weights.items():
            if len(values) != len(l1) or min(values, default=-1.0) < 0:
                raise UserError(
                    f"{name} is {values}", f"give a number of at least 0 for each of the {len(l1)} levels, as in l1"
                )
        for level, total in enumerate(map(sum, zip(l1, perceptual, adversarial, strict=True)), 1):
            if not total:
                raise UserError(f"level {level} has no loss", "give it a weight in l1, perceptual or adversarial")
        if min(shares) <= 0:
            raise UserError(f"shares is {shares}", "give positive numbers: every level is needed for sampling")
        if noise < 0 or not 0 < noise_decay <= 1:
            raise UserError(f"noise {noise} or noise_decay {noise_decay} is out of range", "give 0.4 and 0.99")
        discriminator.validate()
        self.l1, self.perceptual, self.adversarial, self.r1 = l1, perceptual, adversarial, r1
        self.noise, self.noise_decay, self.vgg, self.discriminator = noise, noise_decay, vgg, discriminator
        self.pairs, self.shares = pairs, shares
        self.opponents = ("adversary",) if any(adversarial) else ()

    adversary: nn.Module | None
    features: PerceptualFeatures | None = None

    def check(self, denoiser: NetworkDenoiser) -> None:
        """Processes whose steps back double the size, of as many levels as there are weights."""
        levels = _halving(denoiser).levels
        if levels != len(self.l1):
            raise UserError(
                f"UDPMLoss has weights for {len(self.l1)} levels, and the process has {levels}",
                "give l1, perceptual, adversarial and r1 a number for each level",
            )
        if any(self.perceptual) and not denoiser.codec.identity:
            raise UserError("a perceptual loss looks at pixels, and latents are trained", "leave one of them out")

    def setup(self, denoiser: NetworkDenoiser, data: Any, folder: Path) -> None:
        """What the perceptual loss looks with, kept in the run folder where it is trained on the data."""
        if any(self.perceptual):
            check_perceptual(self.vgg, data)
            self.features = network = perceptual_network(self.vgg, data, folder)
            self.perceptual_title = network.title

    def modules(self, denoiser: NetworkDenoiser) -> dict[str, nn.Module]:
        """The discriminator, where there is an adversarial loss."""
        if not self.opponents:
            return {}
        spec = denoiser.backbone.spec
        shown = spec.out_channels + spec.in_channels if self.pairs else spec.out_channels
        self.adversary = Discriminator(self.discriminator, replace(spec, out_channels=shown))
        return {"adversary": self.adversary}

    def __call__(self, step: Step) -> Loss:
        """See `Objective`; `per_sample` is the mean squared error of the block means."""
        return self._denoiser_loss(step, self._level(step))

    def _denoiser_loss(self, step: Step, level: int) -> Loss:
        pair = self._pair(step, level)
        error = pair.fake - pair.real
        loss = self.l1[level - 1] * error.abs().mean()
        if self.perceptual[level - 1] and self.features is not None:
            loss = loss + self.perceptual[level - 1] * perceptual_distance(self.features, pair.fake, pair.real)
        if self.adversarial[level - 1] and self.adversary is not None:
            judged = self._judge(self._noisy(pair.fake, step), pair, step.batch)
            loss = loss + self.adversarial[level - 1] * F.softplus(-judged).mean()
        return Loss(loss, error.float().square().mean((1, 2, 3)), pair.t, error)

    def opposing_loss(self, name: str, step: Step) -> Tensor:
        """The discriminator's; see `Objective`."""
        return self._adversary_loss(step, self._level(step))

    def _adversary_loss(self, step: Step, level: int) -> Tensor:
        if not self.adversarial[level - 1]:
            return self._no_loss()
        with torch.no_grad():
            pair = self._pair(step, level)
        real = self._noisy(pair.real, step)
        fake = self._noisy(pair.fake, step)
        return opposing_loss(lambda image: self._judge(image, pair, step.batch), real, fake, self.r1[level - 1])

    def _no_loss(self) -> Tensor:
        """0, with a gradient of 0: a level without an adversarial loss teaches the discriminator nothing."""
        assert self.adversary is not None, "set before training, where there is an adversary"
        return 0 * torch.stack([p.sum() for p in self.adversary.parameters()]).sum()

    def _judge(self, image: Tensor, pair: _Pair, batch: Mapping[str, Tensor]) -> Tensor:
        """What the adversary says of images (B, C, H, W), (B,)."""
        assert self.adversary is not None, "set before training, where there is an adversary"
        shown = image if pair.seen is None else torch.cat([image, pair.seen], dim=1)
        with no_float16(shown.device.type):
            judged: Tensor = self.adversary(shown, pair.c_noise, batch.get("label"))
        return judged

    def cases(self, step: Step) -> Iterator[Case]:
        """One for each level: other images, other losses. A perceptual network counts once it is there."""
        for level in range(1, len(self.l1) + 1):

            def losses(level: int = level) -> Tensor:
                loss = self._denoiser_loss(step, level).loss
                return loss if self.adversary is None else loss + self._adversary_loss(step, level)

            yield Case(self.shares[level - 1] / sum(self.shares), losses)

    def _level(self, step: Step) -> int:
        """The level of a batch, by the number of `OneStage` that chooses it."""
        drawn = self.times.uniform(len(step.batch["image"]), step.host_generator, step.host)
        chosen = float(drawn[-1]) * sum(self.shares)
        return next((i for i, end in enumerate(accumulate(self.shares), 1) if chosen < end), len(self.shares))

    def _pair(self, step: Step, level: int) -> _Pair:
        """The images of a batch at a level, and what the denoiser makes of the noisy ones below it."""
        process, halving, generator = step.denoiser.process, _halving(step.denoiser), step.generator
        image, to_pixels = step.batch["image"], process.basis.to_pixels
        u_0 = clean_state(process, image, generator)
        t = torch.full((len(image),), level, dtype=torch.float64, device=step.host)
        coarse = halving.down(u_0, level)
        u_t = process.perturb(coarse, torch.empty_like(coarse).normal_(generator=generator), t)
        found = step.denoiser(u_t, t, step.given, step.effort).u_0
        scale = 2 ** (level - 1)
        real, fake = (to_pixels(u) / scale for u in (halving.down(u_0, level - 1), found))
        seen = _enlarged(to_pixels(u_t), halving, level) if self.pairs else None
        return _Pair(real, fake, t, to_device(process.time_label(t), image.device), seen)

    def _noisy(self, image: Tensor, step: Step) -> Tensor:
        std = self.noise * self.noise_decay ** (step.number / 1000)
        return image + std * torch.empty_like(image).normal_(generator=step.generator) if std else image.clone()


def _halving(denoiser: Denoiser) -> Halving:
    if not isinstance(denoiser.process, Halving):
        raise UserError(
            f"UDPMLoss cannot train a denoiser of {type(denoiser.process).__name__}", "use the process DownSampling"
        )
    return denoiser.process


def _enlarged(x_l: Tensor, process: Halving, level: int) -> Tensor:
    """An image x_l at twice its size: pixels repeated, in units in which block means, or else the noise, are 1."""
    scale = max(process.abar[level] * 2**level, process.std[level])
    return (x_l / scale).repeat_interleave(2, -2).repeat_interleave(2, -1)


def opposing_loss(judge: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, gamma: float) -> Tensor:
    """Half of softplus(-D(real)) + softplus(D(fake)), and R1, gamma/2 |grad D(real)|^2 (arXiv 1801.04406), ().

    Args:
        judge: D, images (B, C, H, W) to (B,).
        real: True images.
        fake: Made ones, without a gradient.
        gamma: Weight of R1.
    """
    real = real.detach().requires_grad_()
    on_real, on_fake = judge(real), judge(fake)
    loss = (F.softplus(-on_real).mean() + F.softplus(on_fake).mean()) / 2
    (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
    return loss + gamma / 2 * slope.square().sum((1, 2, 3)).mean()


def perceptual_distance(features: PerceptualFeatures, fake: Tensor, real: Tensor) -> Tensor:
    """Mean over images, pixels and layers of the squared distance of features scaled to length 1, ()."""
    with torch.no_grad():
        targets = [F.normalize(h, dim=1) for h in features(real)]
    pairs = zip(features(fake), targets, strict=True)
    distances = [(F.normalize(h, dim=1) - target).square().sum(1).mean() for h, target in pairs]
    return torch.stack(distances).mean()
