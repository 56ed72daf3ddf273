# %% [markdown]
# # Where does the time go
#
# For whoever finds sampling slow and wants to know why before changing anything: from the price of an image down to the
# calls, to the blocks of the network, and to what the machine makes of them.

# %%
import tempfile

import denoisezoo as dz

denoiser = dz.create_denoiser("ddpm_digits")

# %% [markdown]
# ## An image is a walk of calls
#
# A number for the network alone says little: samplers call it 15 times or 1,000, some twice in a step. Heun's method
# makes 2 N - 1 calls in N steps, so that multistep methods of the same order cost half.

# %%
for sampler, steps in (("heun", 8), ("dpmpp_2m", 15), ("ddim", 50)):
    row = dz.profile(denoiser, sampler=sampler, steps=steps, counts_only=True).rows()[0]
    print(f"{sampler:9} {row['nfe']:3} calls {row['macs_per_image'] / 1e6:6.0f} M multiply-adds")

# %% [markdown]
# ## Each call has its price
#
# `trajectory` has a row for each call, with its noise level, its multiply-adds, and, unless only counted, its time.
# For a plain U-Net all calls are alike; a multi-scale network sees small images first, and a network under a
# [plan](half_the_compute.py) is smaller where the image is noise.

# %%
profile = dz.profile(denoiser, sampler="heun", steps=4, runs=5, device="cpu")
calls = profile.rows()[0]["trajectory"]
for call in calls:
    print(f"sigma {call['sigma']:8.3f}  {call['macs']:,} multiply-adds  {call['latency_ms']:.2f} ms")
assert len(calls) == profile.rows()[0]["nfe"] == 7

# %%
staged = dz.profile("multiscale_digits", process="multiscale", sampler="gddim", steps=6, counts_only=True)
print([call["macs"] for call in staged.rows()[0]["trajectory"]])

# %% [markdown]
# ## Inside a call
#
# `depth` adds the tree of modules with its share of parameters, multiply-adds and time (`--by-module` in the shell).
# Where a module's share of the time is far above that of its multiply-adds, the machine waits for memory or for
# Python: norms, activations and copies have few multiply-adds and move as many bytes.

# %%
inside = dz.profile(denoiser, depth=1, runs=5, device="cpu").rows()[0]
for module in sorted(inside["modules"][1:], key=lambda module: -(module["latency_share"] or 0))[:6]:
    time, macs = module["latency_share"], module["share"]
    print(f"{module['path']:12} {time:6.1%} of the time, {macs:6.1%} of the multiply-adds")

# %% [markdown]
# ## Larger batches, other ways to run it
#
# A call for 16 images costs less than 16 calls where the cores were not full; `macs` are those of one image throughout.
# `variants="all"` times what this machine has: eager, channels_last, bf16, compiled, on a GPU CUDA graphs.

# %%
batches = dz.profile(denoiser, batch_sizes=[1, 16], runs=3, variants=["eager", "channels_last"], device="cpu")
print(batches)

# %% [markdown]
# Rows of a busy machine do not compare: what ran beside the one did not run beside the other. `compare=True` times two
# networks in turns and gives the ratio with its interval.

# %%
print(dz.profile(["ddpm_digits", "adm_digits"], compare=True, runs=5, device="cpu"))

# %% [markdown]
# A page with the multiply-adds over the noise level: `denoisezoo profile ddpm_digits --sampler heun --steps 18 --plot
# page.html`.

# %%
with tempfile.TemporaryDirectory() as folder:
    samples = denoiser.sample(4, sampler="dpmpp_2m", steps=6)
    samples.save(f"{folder}/samples.png")
print(f"{samples.nfe} calls, {samples.seconds:.2f} s")

# %% [markdown]
# ## Where to go next
#
# What is counted and how, and what each figure costs to measure: [what the numbers mean and cost](../cost.md). A
# network that is cheap where it may be: [half the compute](half_the_compute.py). Fewer calls by training for it: [few
# calls](../few_calls.md).
