"""SiT: "SiT: Exploring Flow and Diffusion-based Generative Models with Scalable Interpolant Transformers", Ma,
Goldstein, Albergo, Boffi, Vanden-Eijnden, Xie 2024, arXiv 2401.08740.

DiT's network, layer for layer, trained to predict velocities. The released one has DiT's second half of output
channels, too, computes them and throws them away, without a gradient; `out_channels=4` leaves them out.

What differs: the released sinusoids see t in [0, 1], 1 at the data, which leaves them nearly one straight line; ours
see the 0 ... 999 that processes tell, 999 at the noise, unless `released_time` is set. The rest is as in `dit`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from denoisezoo.archs.dit import COSTS, LATENTS, SIZES
from denoisezoo.archs.variants import Cost, Family
from denoisezoo.archs.vit import FlowConfig, Transformer
from denoisezoo.nn.transformer import TransformerStyle, layer_norm


@dataclass(frozen=True, kw_only=True)
class SiTConfig(FlowConfig):
    """Sizes of a SiT; see `TransformerConfig`."""


class SiT(Transformer):
    """The network; c_noise is 999 t of rectified flow, t = 0 at the data."""

    def __init__(self, config: SiTConfig) -> None:
        super().__init__(config, TransformerStyle(layer_norm))


FAMILY = Family(
    "sit",
    SiT,
    "SiT: Exploring Flow and Diffusion-based Generative Models with Scalable Interpolant Transformers",
    "Ma, Goldstein, Albergo, Boffi, Vanden-Eijnden, Xie",
    2024,
    "2401.08740",
)

for key, cost in COSTS.items():
    size, patch = key.split("_")
    FAMILY.variant(f"sit_{key}", SiTConfig(patch=int(patch), **SIZES[size], **LATENTS), cost, tags=("reference",))
SMALL = SiTConfig(resolution=32, patch=4, width=128, depth=8, heads=4)
FAMILY.variant("sit_small32", SMALL, Cost(2_477_744, 110_706_688), tags=("small",))
FAMILY.variant(
    "sit_digits",
    replace(SMALL, in_channels=1, out_channels=1, resolution=16, patch=2, width=64, depth=6, heads=2),
    Cost(481_732, 22_228_992),
    tags=("small",),
)
FAMILY.variant(
    "sit_tiny",
    SiTConfig(resolution=8, patch=4, width=32, depth=2, heads=2, num_classes=3, cond_channels=1, augment_dim=2),
    Cost(53_200, 138_304),
    tags=("tiny",),
)
