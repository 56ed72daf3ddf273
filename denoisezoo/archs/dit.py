"""DiT: "Scalable Diffusion Models with Transformers", Peebles and Xie 2022, arXiv 2212.09748.

Patches of latents as tokens, a frozen table of sines and cosines for their positions, and blocks whose two branches
are shifted, scaled and gated by noise level and class; gates, and with them all blocks, begin at zero (adaLN-Zero).
Layer for layer the network of the paper's own code, its learned variance included: the second half of the output
channels. A label of -1 is the last row of the label table. `dit_xl_2` is the paper's XL/2 on 32x32 latents.

What differs: weights of the patches' layer are a matrix, not a convolution's; augmentation labels, the conditioning
image, concatenated to the input, and context tokens are ours. Blocks attend to those between their two branches, by a
cross-attention that begins at zero; one learned token is always among them. Small variants have no learned variance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from denoisezoo.archs.variants import Cost, Family
from denoisezoo.archs.vit import TokenConfig, Transformer
from denoisezoo.nn.transformer import TransformerStyle, layer_norm


@dataclass(frozen=True, kw_only=True)
class DiTConfig(TokenConfig):
    """Sizes of a DiT; see `TransformerConfig`."""


class DiT(Transformer):
    """The network; c_noise is the step index t in 0 ... 999."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config, TransformerStyle(layer_norm))


FAMILY = Family("dit", DiT, "Scalable Diffusion Models with Transformers", "Peebles, Xie", 2022, "2212.09748")
LATENTS: dict[str, Any] = {"in_channels": 4, "out_channels": 8, "resolution": 32, "num_classes": 1000}
SIZES: dict[str, dict[str, Any]] = {
    "s": {"depth": 12, "width": 384, "heads": 6},
    "b": {"depth": 12, "width": 768, "heads": 12},
    "l": {"depth": 24, "width": 1024, "heads": 16},
    "xl": {"depth": 28, "width": 1152, "heads": 16},
}
COSTS = {
    "s_2": Cost(32_963_360, 6_055_673_856),
    "s_4": Cost(32_945_024, 1_412_579_328),
    "s_8": Cost(33_148_160, 357_974_016),
    "b_2": Cost(130_512_416, 23_005_102_080),
    "b_4": Cost(130_475_648, 5_565_186_048),
    "b_8": Cost(130_881_536, 1_417_543_680),
    "l_2": Cost(458_102_816, 80_697_622_528),
    "l_4": Cost(458_053_760, 19_695_665_152),
    "l_8": Cost(458_594_816, 5_011_406_848),
    "xl_2": Cost(675_129_632, 118_621_421_568),
    "xl_4": Cost(675_074_432, 29_043_671_040),
    "xl_8": Cost(675_683_072, 7_392_411_648),
}
"""Of the paper's sizes and patches; SiT's are the same."""

for key, cost in COSTS.items():
    size, patch = key.split("_")
    config = DiTConfig(patch=int(patch), **SIZES[size], **LATENTS)
    FAMILY.variant(f"dit_{key}", config, cost, tags=("reference",))
FAMILY.variant(
    "dit_small32",
    DiTConfig(resolution=32, patch=4, width=128, depth=8, heads=4),
    Cost(2_477_744, 110_706_688),
    tags=("small",),
)
FAMILY.variant(
    "dit_digits",
    DiTConfig(in_channels=1, out_channels=1, resolution=16, patch=2, width=64, depth=6, heads=2),
    Cost(481_732, 22_228_992),
    tags=("small",),
)
TINY = DiTConfig(
    resolution=8,
    patch=4,
    width=32,
    depth=2,
    heads=2,
    num_classes=3,
    cond_channels=1,
    augment_dim=2,
)
FAMILY.variant("dit_tiny", replace(TINY, token_dim=5, tokens=3), Cost(61_872, 173_600), tags=("tiny",))
