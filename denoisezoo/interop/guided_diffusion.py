"""State dictionaries of OpenAI's guided-diffusion (arXiv 2105.05233) and improved-diffusion (arXiv 2102.09672), `*.pt`.

The file holds tensors alone. Options have the names of that code's flags; the flags of the networks that were published
are known by their sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from denoisezoo.errors import UserError
from denoisezoo.interop.foreign import FORMATS, Foreign, Format, Weights, part
from denoisezoo.interop.openai_unet import Sizes, network_of, read_sizes, take_weights
from denoisezoo.interop.tensor_files import read_state

SIZE_256, SIZE_512 = (1, 1, 2, 2, 4, 4), (0.5, 1, 1, 2, 2, 4, 4)
GUIDED: dict[tuple[int, int, tuple[float, ...]], dict[str, Any]] = {
    (192, 3, (1, 2, 3, 4)): {
        "image_size": 64,
        "num_head_channels": 64,
        "use_new_attention_order": True,
        "noise_schedule": "cosine",
    },
    (256, 2, (1, 1, 2, 3, 4)): {"image_size": 128, "num_heads": 4},
    (256, 2, SIZE_256): {"image_size": 256, "num_head_channels": 64},
    (256, 2, SIZE_512): {"image_size": 512, "num_head_channels": 64},
    (192, 2, SIZE_256): {"image_size": 256, "num_heads": 4},
    (192, 2, SIZE_512): {"image_size": 512, "num_head_channels": 64},
}
"""Base width, blocks and multipliers of guided-diffusion's published networks -> their flags, from its README."""
DEFAULTS: dict[str, Any] = {"use_new_attention_order": False, "noise_schedule": "linear"}
"""What the code takes where a flag is not given, and the flag says nothing of the tensors."""


@FORMATS.register("guided")
@dataclass(frozen=True)
class GuidedDiffusion(Format):
    """Reads one network; give `ema_*.pt` for averaged weights.

    Attributes:
        image_size: Height and width of the images.
        num_heads: Heads of an attention.
        num_head_channels: Channels of a head, in place of their number.
        use_new_attention_order: Order of the rows of an attention.
        noise_schedule: Noise schedule.
        diffusion_steps: Steps of the chain.
        rescale_timesteps: Whether labels are scaled to those of 1,000 steps.
    """

    image_size: int | None = None
    num_heads: int | None = None
    num_head_channels: int | None = None
    use_new_attention_order: bool | None = None
    noise_schedule: Literal["linear", "cosine"] | None = None
    diffusion_steps: int = 1000
    rescale_timesteps: bool = False

    def read(self, path: Path, weights: Weights) -> Foreign:
        """See `Format.read`."""
        theirs = read_state(path)
        sizes = read_sizes(theirs, path)
        flags = self._flags(path, sizes)
        T = self.diffusion_steps
        rescaled = {"c_noise_scale": 1000 / T} if self.rescale_timesteps else {}
        heads = {"num_heads": flags.get("num_heads", 0), "head_channels": flags.get("num_head_channels", 0)}
        denoiser, network = network_of(sizes, path, flags["image_size"], **heads, **rescaled)
        taken = take_weights(path, theirs, denoiser, network, sizes, flags["use_new_attention_order"])
        # Betas of a longer chain are smaller in proportion (get_named_beta_schedule).
        betas = {"beta_start": 0.1 / T, "beta_end": 20 / T} if T != 1000 else {}
        learned = sizes.out_channels == 2 * sizes.image_channels
        return Foreign(
            denoiser=denoiser,
            network=network,
            process=part("VPDiscrete", schedule=flags["noise_schedule"], T=T, **betas),
            preconditioning=part("Epsilon"),
            objective=part("Simple"),
            weights=taken,
            sampler="ddpm:variance=learned" if learned else "ddpm:variance=large",
            steps=min(250, T),
            file=path,
        )

    def _flags(self, path: Path, sizes: Sizes) -> dict[str, Any]:
        """The flags, from the options, those of a published network of these sizes, or the code's defaults."""
        known = GUIDED.get((sizes.channels, sizes.blocks, sizes.multipliers), {})
        if sizes.resampling != "residual" or not sizes.scale_shift:
            known = {}
        names = ("image_size", "num_heads", "num_head_channels", "use_new_attention_order", "noise_schedule")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if "num_heads" in given or "num_head_channels" in given:
            known = {name: value for name, value in known.items() if "head" not in name}
        flags = {**DEFAULTS, **known, **given}
        if "num_heads" not in flags and "num_head_channels" not in flags:
            raise UserError(
                f"{path} does not tell the heads of its attention", "give them, e.g. guided,num_heads=4:PATH"
            )
        if "num_heads" in flags and "num_head_channels" in flags:
            raise UserError("num_heads and num_head_channels are given, and one follows from the other", "give one")
        if "image_size" not in flags:
            raise UserError(f"{path} does not tell the size of its images", "give it, e.g. guided,image_size=64:PATH")
        return flags
