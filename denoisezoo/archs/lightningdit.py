"""LightningDiT: "Reconstruction vs. Generation: Taming Optimization Dilemma in Latent Diffusion Models", Yao, Yang,
Wang 2025, arXiv 2501.01423.

DiT with RMSNorm, SwiGLU and rotary positions beside the frozen table; in the paper at patch 1 on latents of 32
channels. Without queries and keys normalised, as in its main runs: `qk_norm` cures divergence. `shift=False` leaves the
shifts out of the blocks (its code's "wo_shift").

What differs: the released sinusoids see t in [0, 1], ours 0 ... 999 unless `released_time` is set; the rest is as in
`dit`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F

from denoisezoo.archs.variants import Cost, Family
from denoisezoo.archs.vit import FlowConfig, Transformer
from denoisezoo.nn.attention import RMSNorm
from denoisezoo.nn.transformer import TransformerStyle


@dataclass(frozen=True, kw_only=True)
class LightningDiTConfig(FlowConfig):
    """Sizes of a LightningDiT; see `TransformerConfig`.

    Attributes:
        qk_norm: Whether queries and keys are normalised.
        shift: Whether blocks shift as well as scale and gate.
    """

    qk_norm: bool = False
    shift: bool = True

    @property
    def rotary(self) -> bool:
        """See `TransformerConfig.rotary`."""
        return True


class LightningDiT(Transformer):
    """The network; c_noise is 999 t of rectified flow, t = 0 at the data."""

    def __init__(self, config: LightningDiTConfig) -> None:
        style = TransformerStyle(RMSNorm, gated=True, activation=F.silu, qk_norm=config.qk_norm, shift=config.shift)
        super().__init__(config, style)


FAMILY = Family(
    "lightningdit",
    LightningDiT,
    "Reconstruction vs. Generation: Taming Optimization Dilemma in Latent Diffusion Models",
    "Yao, Yang, Wang",
    2025,
    "2501.01423",
)

BASE = LightningDiTConfig(in_channels=4, out_channels=4, num_classes=1000, width=768, depth=12, heads=12)
LARGE = replace(BASE, width=1024, depth=24, heads=16)
EXTRA_LARGE = replace(BASE, width=1152, depth=28, heads=16)
FAMILY.variant("lightningdit_b_2", BASE, Cost(130_531_600, 23_001_956_352), tags=("reference",))
FAMILY.variant("lightningdit_l_2", LARGE, Cost(458_120_176, 80_680_845_312), tags=("reference",))
FAMILY.variant("lightningdit_xl_2", EXTRA_LARGE, Cost(675_219_856, 118_616_702_976), tags=("reference",))
FAMILY.variant(
    "lightningdit_b_1",  # patch 1 on the 32-channel latents of VA-VAE
    replace(BASE, in_channels=32, out_channels=32, resolution=16, patch=1),
    Cost(130_556_192, 23_008_247_808),
    tags=("reference",),
)
FAMILY.variant(
    "lightningdit_xl_1",
    replace(EXTRA_LARGE, in_channels=32, out_channels=32, resolution=16, patch=1),
    Cost(675_256_736, 118_626_140_160),
    tags=("reference",),
)
SMALL = LightningDiTConfig(resolution=32, patch=4, width=128, depth=8, heads=4)
FAMILY.variant("lightningdit_small32", SMALL, Cost(2_480_256, 110_641_152), tags=("small",))
FAMILY.variant(
    "lightningdit_digits",
    replace(SMALL, in_channels=1, out_channels=1, resolution=16, patch=2, width=64, depth=6, heads=2),
    Cost(482_300, 22_179_840),
    tags=("small",),
)
FAMILY.variant(
    "lightningdit_tiny",
    LightningDiTConfig(
        resolution=8,
        patch=4,
        width=32,
        depth=2,
        heads=2,
        num_classes=3,
        cond_channels=1,
        augment_dim=2,
        qk_norm=True,
    ),
    Cost(53_444, 138_048),
    tags=("tiny",),
)
