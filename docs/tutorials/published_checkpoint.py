# %% [markdown]
# # Reading a published checkpoint
#
# For whoever has weights of somebody else's code (EDM, diffusers, guided-diffusion, DiT, ...) and wants images, a
# price, or a faster sampler for them, without that code. `FORMAT:PATH` stands wherever a run may stand; nothing in
# the file is executed.

# %%
import json
import tempfile
from pathlib import Path

import torch

import denoisezoo as dz

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A file
#
# Nothing is downloaded for this page: it writes a folder as diffusers' `DDPMPipeline.save_pretrained` does, of a
# small network with random weights. A folder that you have fetched from the hub looks the same.

# %%
torch.manual_seed(0)
written = dz.create_denoiser("ddpm_digits", dz.diffusion.VPDiscrete(), norm_groups=8)
dz.export(written, folder / "pipeline", format="diffusers")
print(sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")))

# %% [markdown]
# ## Load it
#
# Sizes are read off the file, and every tensor must be known and fit. The process comes from the scheduler, and so
# does the *customary sampler*, the one that its authors use.

# %%
denoiser = dz.load(f"diffusers:{folder / 'pipeline'}")
print(type(denoiser.process).__name__, denoiser.image_shape, f"{denoiser.backbone.num_params():,} parameters")

# %% [markdown]
# ## Is it the same network?
#
# The same input gives the same answer; for published weights, `tests/interop` compares with the original code.

# %%
u, t = torch.randn(2, *denoiser.latent_shape), torch.tensor([10.0, 500.0], dtype=torch.float64)
with torch.inference_mode():
    written.eval()
    torch.testing.assert_close(denoiser(u, t).u_0, written(u, t).u_0)

# %% [markdown]
# ## What an image costs, and what it would cost otherwise
#
# The chain that it was trained for is a thousand of these calls. On the same weights, DDIM in 50 and a second-order
# method in 20:

# %%
for sampler, steps in (("ddim", 50), ("dpmpp_2m", 20)):
    row = dz.profile(denoiser, sampler=sampler, steps=steps, counts_only=True).rows()[0]
    print(f"{sampler:9} {row['nfe']:5} calls {row['macs_per_image'] / 1e9:7.2f} G multiply-adds")
samples = denoiser.sample(4, sampler="dpmpp_2m", steps=4)
samples

# %% [markdown]
# ## Judge it
#
# A checkpoint names no data: give images, or statistics that others have published.

# %%
result = dz.evaluate(denoiser, dz.data.Digits(), num=16, sampler="dpmpp_2m", steps=4)
print(result)

# %% [markdown]
# ## Keep it
#
# One safetensors file with configuration and card, which loads without the original (`denoisezoo import` is the same).

# %%
dz.export(denoiser, folder / "mine.safetensors")
again = dz.load(folder / "mine.safetensors")
assert all(torch.equal(a, b) for a, b in zip(again.parameters(), denoiser.parameters(), strict=True))
print(json.dumps(again.run.config["source"], indent=1)[:300])

# %% [markdown]
# ## Where to go next
#
# All formats, their options (`guided,num_heads=4:model.pt`) and what is refused: [checkpoints of other
# code](../interop.md). The way out, to diffusers, ONNX and torch.export, is there too. Train on from such weights:
# `--model.start_from RUN`, in [training](../training.md). A faster sampler by training: [few calls](../few_calls.md).
