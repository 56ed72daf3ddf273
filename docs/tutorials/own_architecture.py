# %% [markdown]
# # Your own architecture in 40 lines
#
# For whoever has an idea for a network and wants to know how it does beside the zoo's. It becomes a family of its
# own: priced, trained, sampled and compared as the others are, from your own package, with nothing of `denoisezoo`
# edited.

# %%
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import denoisezoo as dz

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The network
#
# A *backbone* maps a noisy image x (B, C, H, W) and c_noise (B,), a number that tells how noisy it is, to an image.
# It knows no noise schedule. Its sizes are a frozen dataclass; what all networks have (`in_channels`, `resolution`,
# `num_classes`, ...) comes from `BackboneConfig`.


# %%
@dataclass(frozen=True, kw_only=True)
class MixerConfig(dz.BackboneConfig):
    """Depthwise 7x7 convolutions with gates, at one resolution."""

    in_channels: int = 1
    out_channels: int = 1
    resolution: int = 16
    width: int = 32
    depth: int = 3


class Mixer(dz.Backbone):
    """Each block: look around, be told the noise level, mix channels."""

    def __init__(self, config: MixerConfig) -> None:
        super().__init__(config)
        width = config.width
        self.stem = nn.Conv2d(config.in_channels, width, 3, padding=1)
        self.noise = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.around = nn.ModuleList(nn.Conv2d(width, width, 7, padding=3, groups=width) for _ in range(config.depth))
        self.mix = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(4, width), nn.Conv2d(width, 2 * width, 1), nn.GLU(1), nn.Conv2d(width, width, 1))
            for _ in range(config.depth)
        )
        self.head = nn.Conv2d(width, config.out_channels, 3, padding=1)

    def forward(self, x, c_noise, given=None, effort=None):
        self.check_effort(effort)
        u, level = self.stem(x), self.noise(c_noise.to(x.dtype)[:, None])[..., None, None]
        for around, mix in zip(self.around, self.mix, strict=True):
            u = u + mix(around(u) + level)
        return self.head(u)


# %% [markdown]
# ## Use it as it is
#
# A network at hand needs no name. `create_denoiser` adds the preconditioning for a process, and everything works.

# %%
torch.manual_seed(0)
denoiser = dz.create_denoiser(Mixer(MixerConfig()), dz.diffusion.RectifiedFlow())
print(dz.profile(denoiser, counts_only=True, sampler="dpmpp_2m", steps=8))

# %%
digits = dz.data.Digits(batch_size=32)
run = dz.fit(
    denoiser, dz.diffusion.Simple(), digits, steps=30, lr=2e-3, out=folder / "mixer", trainer={"accelerator": "cpu"}
)
samples = run.denoiser.sample(8, sampler="dpmpp_2m", steps=8)
samples

# %% [markdown]
# ## Give it a name
#
# A *family* has a paper, and *variants* with the costs that you expect, one for each effort: by hand, or from the
# paper. What `profile` counts is held against them, and so a slip in either is seen.

# %%
pixels, width, depth = 16 * 16, 32, 3
block = width * 49 + width * 2 * width + width * width  # depthwise 7x7, and 1x1 into and out of the gate
expected = dz.Cost(
    params=16_225,
    macs=pixels * (2 * 9 * width + depth * block) + width + width * width,  # stem and head, blocks, noise level
)
family = dz.Family("mixer", Mixer, "Depthwise mixing", "You", 2026, "")
family.variant("mixer_digits", MixerConfig(), expected, tags=("tiny",))
(row,) = dz.profile("mixer_digits", counts_only=True).rows()
assert (row["params"], row["macs"]) == (expected.params, expected.macs)

# %%
print(dz.profile(["mixer_digits", "ddpm_digits"], counts_only=True, sampler="dpmpp_2m", steps=15))

# %% [markdown]
# ## Make it a package
#
# Put the two classes and the family into `my_mixer.py` of a package whose `pyproject.toml` has
#
# ```toml
# [project.entry-points."denoisezoo.plugins"]
# mixer = "my_mixer"
# ```
#
# After `pip install -e .` every command knows it: `denoisezoo list 'mixer*'`, and
# `denoisezoo train --config digits/ddpm --model.denoiser mixer_digits --trainer.default_root_dir runs/mixer`.
# Without a package, `imports: [my_mixer]` in a recipe does the same. A run that names your module is loaded with
# `--trust my_mixer`, since loading it runs your code.
#
# ## Where to go next
#
# Processes, samplers, objectives, data sets and formats of your own: [your own parts as a
# package](../how_to/own_parts.md). A network with several efforts, and what the search makes of it: [half the
# compute](half_the_compute.py). Beside the zoo, on equal terms: [compare three denoisers](compare_three.py).
