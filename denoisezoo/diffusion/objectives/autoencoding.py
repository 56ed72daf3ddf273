"""What an autoencoder is trained to: its images again, by way of latents that a denoiser can be trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.archs.discriminator import PUBLISHED, Discriminator, DiscriminatorConfig
from denoisezoo.archs.encoding import Encoding
from denoisezoo.diffusion.capabilities import WithoutNoise
from denoisezoo.diffusion.codecs.codec import Posterior
from denoisezoo.diffusion.denoiser import Denoiser
from denoisezoo.diffusion.network_denoiser import NetworkDenoiser
from denoisezoo.diffusion.objectives.adversarial import (
    PerceptualFeatures,
    no_float16,
    opposing_loss,
    perceptual_distance,
)
from denoisezoo.diffusion.objectives.objective import OBJECTIVES, Loss, Objective, Step
from denoisezoo.diffusion.perceptual import check_perceptual, perceptual_network
from denoisezoo.errors import UserError
from denoisezoo.pixels import to_float

MEASURED, AT_A_TIME = 10_000, 250
"""Training images at most that the statistics of latents are measured on, evenly spread; and how many at once."""


@OBJECTIVES.register("autoencoding")
class Autoencoding(Objective):
    """l1 |x' - x| + perceptual distance + KL of the posterior from N(0, 1) + adversarial loss, all of them means.

    The loss of latent diffusion's autoencoders (Rombach et al. 2021, arXiv 2112.10752, appendix G), where means over
    pixels and over coefficients of latents stand for sums; the perceptual distance is that of `UDPMLoss`. Before each
    checkpoint, mean and standard deviation of each channel of latents are measured on training images and kept in the
    network, for the codec to bring latents to unit variance.

    With a teacher, a larger autoencoder, the encoder is the teacher's and stays as it is, and the decoder is trained to
    what the teacher's makes of the same latents: a cheaper decoder for denoisers of these latents.

    Args:
        l1: Weight of the mean absolute error.
        perceptual: Weight of the perceptual distance.
        kl: Weight of the mean KL of a coefficient; of no account for a quantiser.
        adversarial: Weight of softplus(-D(x')); 0 trains no discriminator.
        r1: gamma of the discriminator's gamma/2 |grad D(x)|^2.
        vgg: File of torchvision's VGG-16 weights; without it, the perceptual network is a small classifier that is
            trained on the data.
        discriminator: Sizes of the discriminator.
        teacher: Run of a larger autoencoder, to distil its decoder into a smaller one.
    """

    calibrates = True

    def __init__(
        self,
        l1: float = 1.0,
        perceptual: float = 0.0,
        kl: float = 1e-4,
        adversarial: float = 0.0,
        r1: float = 0.1,
        vgg: str | None = None,
        discriminator: DiscriminatorConfig = PUBLISHED,
        teacher: str | None = None,
    ) -> None:
        weights = {"l1": l1, "perceptual": perceptual, "kl": kl, "adversarial": adversarial, "r1": r1}
        for name, weight in weights.items():
            if not 0 <= weight < float("inf"):
                raise UserError(f"{name} is {weight}", "give a number of at least 0")
        if not l1 and not perceptual:
            raise UserError("nothing asks for the images again", "give l1 or perceptual a weight")
        discriminator.validate()
        self.l1, self.perceptual, self.kl, self.adversarial, self.r1 = l1, perceptual, kl, adversarial, r1
        self.vgg, self.discriminator, self.teacher = vgg, discriminator, teacher
        self.opponents = ("adversary",) if adversarial else ()

    adversary: nn.Module | None = None
    features: PerceptualFeatures | None = None

    def check(self, denoiser: NetworkDenoiser) -> None:
        """Autoencoders alone, of pixels and without noise."""
        network = type(denoiser.backbone).__name__
        if not isinstance(denoiser.backbone, Encoding):
            cure = "give denoiser=denoisezoo.archs.small_autoencoder.SmallAutoencoder, or another objective"
            raise UserError(f"Autoencoding cannot train {network}, which is no autoencoder", cure)
        if not isinstance(denoiser.process, WithoutNoise):
            what = f"{network} is no denoiser, and {type(denoiser.process).__name__} adds noise"
            raise UserError(what, "give the process Noiseless and the preconditioning Unscaled")
        if not denoiser.codec.identity:
            raise UserError(f"{network} is to be a codec, and has one", "leave the codec out")

    def setup(self, denoiser: NetworkDenoiser, data: Any, folder: Path) -> None:
        """The perceptual network, kept in the run folder where it is trained on the data; the teacher's encoder."""
        if self.perceptual:
            check_perceptual(self.vgg, data)
            self.features = network = perceptual_network(self.vgg, data, folder)
            self.perceptual_title = network.title
        if self.source is not None:
            teacher = getattr(self.source, "backbone", None)
            if not isinstance(teacher, Encoding):
                raise UserError("the teacher is no autoencoder", "give one's run as objective.teacher")
            _encoding(denoiser).share_encoder(teacher)

    def modules(self, denoiser: NetworkDenoiser) -> dict[str, nn.Module]:
        """The discriminator, where there is an adversarial loss."""
        if not self.adversarial:
            return {}
        self.adversary = Discriminator(self.discriminator, denoiser.backbone.spec)
        return {"adversary": self.adversary}

    def __call__(self, step: Step) -> Loss:
        """See `Objective`; `per_sample` is the mean squared error of pixels."""
        image, made, posterior = self._made(step)
        error = made - image
        loss = self.l1 * error.float().abs().mean()
        if self.perceptual and self.features is not None:
            loss = loss + self.perceptual * perceptual_distance(self.features, made, image)
        if self.kl and posterior.log_variance is not None and self.source is None:
            loss = loss + self.kl * kl_of(posterior)
        if self.adversarial and self.adversary is not None:
            loss = loss + self.adversarial * F.softplus(-self._judge(made, step)).mean()
        t = torch.zeros(len(image), dtype=torch.float64, device=step.host)
        return Loss(loss, error.detach().float().square().mean((1, 2, 3)), t, error)

    def _made(self, step: Step) -> tuple[Tensor, Tensor, Posterior]:
        """What is to come out, what comes out, each (B, C, H, W), and the posterior that latents were drawn from."""
        image, network = step.batch["image"], _encoding(step.denoiser)
        posterior = Posterior(*network.encode(image))
        z = posterior.draw(step.generator)
        if self.source is not None:
            with torch.no_grad():
                image = _encoding(self.source).decode(z)
        return image, network.decode(z), posterior

    def opposing_loss(self, name: str, step: Step) -> Tensor:
        """The discriminator's; see `Objective`."""
        with torch.no_grad():
            image, made, _ = self._made(step)
        return opposing_loss(lambda shown: self._judge(shown, step), image, made, self.r1)

    def _judge(self, image: Tensor, step: Step) -> Tensor:
        assert self.adversary is not None, "set before training, where there is an adversary"
        with no_float16(image.device.type):
            judged: Tensor = self.adversary(image, image.new_zeros(len(image)), step.batch.get("label"))
        return judged

    def calibrate(self, denoiser: NetworkDenoiser, data: Any) -> None:
        """Measure latents, drawn from their posterior: E[z], and Var[z] = Var[mean] + E[variance].

        With a teacher they have been measured there.
        """
        if self.source is not None:
            return
        network, images = _encoding(denoiser), data.split("train").images
        device = network.latent_mean.device
        total = torch.zeros(3, network.latent_channels, dtype=torch.float64, device=device)
        chosen = torch.arange(0, len(images), max(1, len(images) // MEASURED))[:MEASURED]
        count = 0
        with torch.no_grad():
            for some in chosen.split(AT_A_TIME):
                mean, log_variance = network.encode(to_float(images.take(some)).to(network.latent_mean))
                mean = mean.double()
                variance = torch.zeros_like(mean) if log_variance is None else log_variance.double().exp()
                total += torch.stack([part.sum((0, 2, 3)) for part in (mean, mean.square(), variance)])
                count += mean[:, 0].numel()
        first, second, spread = total / count
        network.latent_mean.copy_(first[:, None, None])
        network.latent_std.copy_((second - first.square() + spread).clamp(min=0).sqrt()[:, None, None])


def kl_of(posterior: Posterior) -> Tensor:
    """KL of N(mean, variance) from N(0, 1), the mean over coefficients and images, ()."""
    assert posterior.log_variance is not None, "a posterior"
    mean, log_variance = posterior.mean.float(), posterior.log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def _encoding(denoiser: Denoiser) -> Encoding:
    return cast(Encoding, getattr(denoiser, "backbone", None))
