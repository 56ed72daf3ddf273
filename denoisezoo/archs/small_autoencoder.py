"""A small convolutional autoencoder: the one of latent diffusion (Rombach et al. 2021, arXiv 2112.10752, appendix E.1),
without attention and narrow enough for a CPU.

No denoiser, and so no variant of the zoo: recipes name its class. As published, a convolution, residual blocks at each
resolution, strided convolutions down, nearest neighbour and convolution up, group norm and SiLU before the last
convolution. What differs: one block at each resolution unless told otherwise, in the decoder as in the encoder, none in
between, and as many channels as latents are to have come straight out of the encoder. The quantiser is FSQ (Mentzer et
al. 2023, arXiv 2309.15505, section 3) of an odd number of levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from denoisezoo.archs.backbone import Backbone, BackboneConfig, Effort
from denoisezoo.archs.encoding import Encoding
from denoisezoo.archs.variants import replace_config
from denoisezoo.errors import UserError
from denoisezoo.nn.blocks import conv, group_norm, kaiming, nearest, silu
from denoisezoo.nn.given import NOTHING, Given


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(BackboneConfig):
    """Sizes; see `SmallAutoencoder`."""

    latent_channels: int = 4
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    decoder_channels: int = 32
    decoder_blocks: int = 1
    quantiser_levels: int = 0

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        if self.out_channels != self.in_channels:
            what = f"out_channels is {self.out_channels}, and images of {self.in_channels} channels are to come back"
            raise UserError(what, "give in_channels alone")
        for name in ("latent_channels", "blocks", "decoder_blocks"):
            if (value := getattr(self, name)) < 1:
                raise UserError(f"{name} is {value}", "give a whole number of at least 1")
        for name in ("channels", "decoder_channels"):
            if (value := getattr(self, name)) < 4 or value % 4:
                raise UserError(f"{name} is {value}", "give a positive multiple of 4")
        if not self.multipliers or min(self.multipliers) < 1:
            raise UserError(f"multipliers is {list(self.multipliers)}", "give a whole number for each resolution")
        if self.quantiser_levels and (self.quantiser_levels < 3 or self.quantiser_levels % 2 == 0):
            raise UserError(
                f"quantiser_levels is {self.quantiser_levels}", "give 0 for none, or an odd number of at least 3"
            )
        self.require_halvings(len(self.multipliers) - 1)


class SmallAutoencoder(Encoding, Backbone):
    """Images to latents f times smaller, f = 2^(number of multipliers - 1), and back.

    Args:
        resolution: Height and width of the images, a multiple of f.
        in_channels: Channels of the images.
        latent_channels: Channels of the latents.
        channels: Width at the full resolution, a multiple of 4.
        multipliers: Width at each resolution as a multiple of `channels`: [1, 2] halves the size once, [1, 2, 4] twice.
        blocks: Residual blocks at each resolution.
        decoder_channels: `channels` of the decoder; those of the encoder unless given.
        decoder_blocks: `blocks` of the decoder, likewise.
        quantiser_levels: Levels, evenly spread over [-1, 1], that latents are rounded to after a tanh; 0 for a Gaussian
            posterior and no quantiser.

    Raises:
        UserError: Impossible sizes.
    """

    def __init__(
        self,
        resolution: int = 32,
        in_channels: int = 3,
        latent_channels: int = 4,
        channels: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        decoder_channels: int | None = None,
        decoder_blocks: int | None = None,
        quantiser_levels: int = 0,
    ) -> None:
        sizes = {
            "resolution": resolution,
            "in_channels": in_channels,
            "out_channels": in_channels,
            "latent_channels": latent_channels,
            "channels": channels,
            "multipliers": multipliers,
            "blocks": blocks,
            "decoder_channels": channels if decoder_channels is None else decoder_channels,
            "decoder_blocks": blocks if decoder_blocks is None else decoder_blocks,
            "quantiser_levels": quantiser_levels,
        }
        config = replace_config(AutoencoderConfig(), sizes, "SmallAutoencoder")
        assert isinstance(config, AutoencoderConfig)
        super().__init__(config)
        self.latent_channels, self.factor = latent_channels, 2 ** (len(multipliers) - 1)
        self.levels = quantiser_levels
        outputs = latent_channels if quantiser_levels else 2 * latent_channels
        self.encoder = _encoder(in_channels, [m * channels for m in multipliers], blocks, outputs)
        widths = [m * config.decoder_channels for m in multipliers]
        self.decoder = _decoder(latent_channels, widths, config.decoder_blocks, in_channels)
        self.register_buffer("latent_mean", torch.zeros(latent_channels, 1, 1))
        self.register_buffer("latent_std", torch.ones(latent_channels, 1, 1))

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `Encoding`."""
        found: Tensor = self.encoder(image)
        if self.levels:
            return quantise(found, self.levels), None
        mean, log_variance = found.chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def decode(self, z: Tensor) -> Tensor:
        """See `Encoding`."""
        image: Tensor = self.decoder(z)
        return image

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """The image again; noise levels are none of its business."""
        self.check_effort(effort)
        return self.decode(self.encode(x)[0])

    def share_encoder(self, other: Encoding) -> None:
        """See `Encoding`."""
        theirs: nn.Module = getattr(other, "encoder", nn.Module())
        shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (self.encoder, theirs)]
        if shapes[0] != shapes[1] or self.latent_channels != other.latent_channels:
            raise UserError(
                "the encoder has other sizes than the teacher's, whose latents it is to keep",
                "give the network those of the teacher, and a decoder of its own: network.decoder_channels",
            )
        self.encoder.load_state_dict(theirs.state_dict())
        self.encoder.requires_grad_(False)
        for name in ("latent_mean", "latent_std"):
            getattr(self, name).copy_(getattr(other, name))


def quantise(raw: Tensor, levels: int) -> Tensor:
    """tanh(raw) rounded to the nearest of `levels` numbers from -1 to 1; gradients are those of the tanh."""
    bounded, half = raw.tanh(), (levels - 1) / 2
    return bounded + ((bounded * half).round() / half - bounded).detach()


class _Block(nn.Module):
    """Norm, SiLU, convolution, twice, and a residual sum: (B, C, H, W) -> (B, C', H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm0 = group_norm(in_channels, 1e-6)
        self.conv0 = conv(in_channels, out_channels, 3, kaiming)
        self.norm1 = group_norm(out_channels, 1e-6)
        self.conv1 = conv(out_channels, out_channels, 3, kaiming, gain=0.0)
        self.skip = conv(in_channels, out_channels, 1, kaiming) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv0(silu(self.norm0(x)))
        y: Tensor = self.skip(x) + self.conv1(silu(self.norm1(h)))
        return y


class _Doubled(nn.Module):
    """Nearest neighbour to twice the size, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels, 3, kaiming)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(nearest(x))
        return y


def _halved(channels: int) -> nn.Conv2d:
    """A strided convolution, with zeros all around, to half the size."""
    layer = conv(channels, channels, 3, kaiming, stride=2)
    layer.padding = (1, 1)
    return layer


def _encoder(in_channels: int, widths: Sequence[int], blocks: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [conv(in_channels, widths[0], 3, kaiming)]
    before = widths[0]
    for level, width in enumerate(widths):
        layers += [_halved(before)] if level else []
        layers += [_Block(before if i == 0 else width, width) for i in range(blocks)]
        before = width
    return nn.Sequential(*layers, group_norm(before, 1e-6), nn.SiLU(), conv(before, out_channels, 3, kaiming))


def _decoder(in_channels: int, widths: Sequence[int], blocks: int, out_channels: int) -> nn.Sequential:
    before = widths[-1]
    layers: list[nn.Module] = [conv(in_channels, before, 3, kaiming)]
    for level, width in enumerate(reversed(widths)):
        layers += [_Doubled(before)] if level else []
        layers += [_Block(before if i == 0 else width, width) for i in range(blocks)]
        before = width
    return nn.Sequential(*layers, group_norm(before, 1e-6), nn.SiLU(), conv(before, out_channels, 3, kaiming))
