# %% [markdown]
# # First steps
#
# Which denoiser gives the best images for the compute that you have? This page walks through the parts of an answer on
# scikit-learn's digits: a network from the zoo, its price, a short training, images, their distance from real ones,
# and a plan. It takes half a minute on two CPU cores.

# %%
import tempfile
from pathlib import Path

import denoisezoo as dz

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The zoo
#
# A *backbone* is a raw network. Names are found by pattern; `dz.info` knows the paper, the arguments and the costs.

# %%
print(dz.list_denoisers("*digits*"))
print(dz.info("ddpm_digits"))

# %% [markdown]
# ## A denoiser
#
# A *denoiser* is a backbone with the preconditioning for one *process*, which says how an image is destroyed.
# Processes, preconditionings, objectives and samplers are in `dz.diffusion`; a name gives one with its defaults.

# %%
denoiser = dz.create_denoiser("ddpm_digits", dz.diffusion.RectifiedFlow())
noise = denoiser.sample(4, sampler="heun", steps=4)  # fresh weights: a notebook shows noise
print(noise.images.shape, noise.nfe)

# %% [markdown]
# ## Its price
#
# Cost is a function of the noise level: a sampler calls the network again and again, and each call is a row of
# `trajectory`. Their sum is the price of an image. Counting alone needs no weights and takes seconds for any network.

# %%
price = dz.profile(denoiser, counts_only=True, sampler="heun", steps=10)
print(price)
row = price.rows()[0]
assert row["macs_per_image"] == sum(call["macs"] for call in row["trajectory"])

# %% [markdown]
# Several networks stand side by side; `variants="all"` would time them in every way that this machine has.

# %%
print(dz.profile(["ddpm_digits", "adm_digits", "slim_ddpm_digits"], counts_only=True))

# %% [markdown]
# ## Training
#
# A *recipe* is a YAML file; shipped ones go by name. Any key of it can be changed, and the same call again goes on
# where training stopped. What comes back is a *run*: a denoiser with its history.
#
# Without a recipe, `dz.fit(denoiser, objective, images, steps=400, out="runs/mine")` trains objects in the same way: a
# `denoiser` as above, an objective such as `dz.diffusion.Simple()`, and a tensor, a list or a data module.


# %%
def train(recipe, steps):
    trainer = {"max_steps": steps, "default_root_dir": folder / recipe, "accelerator": "cpu", "limit_val_batches": 0}
    return dz.train(recipe, trainer=trainer, data={"init_args": {"batch_size": 32}}, samples={"every_n_steps": 0})


run = train("digits/ddpm", steps=60)
print(run)

# %% [markdown]
# ## Images
#
# Image i depends on seed + i alone, so that two samplers can be compared on the same noise.

# %%
samples = run.denoiser.sample(16, sampler="dpmpp_2m", steps=8, seed=7)
samples.save(folder / "samples.png")
samples

# %% [markdown]
# ## Figures
#
# A number without its card is not a result: the card tells data, seeds, sampler, versions and machine.

# %%
result = dz.evaluate(run, num=100, sampler="dpmpp_2m", steps=8)
print(result)
assert result.card.num_generated == 100

# %% [markdown]
# ## A plan
#
# Some networks can be used in part: *efforts*, here widths. A *plan* says how much of the network to use at each noise
# level, and a search finds the best one at a share of the full cost, without sampling anything.

# %%
slim = train("digits/slim", steps=10)
result = dz.search(slim, budget=0.5, sampler="dpmpp_2m", steps=8, images=16)
print(result)
plan = result.plan()
halved = slim.denoiser.sample(16, sampler="dpmpp_2m", steps=8, plan=plan)

# %% [markdown]
# The same run is there tomorrow: `dz.load` takes a run folder, a checkpoint or an exported file.

# %%
again = dz.load(folder / "digits/ddpm")
assert again.run.facts["train_steps"] == 60

# %% [markdown]
# ## Where to go next
#
# With your own pictures: [compare three denoisers](compare_three.py). Why sampling takes its time:
# [where does the time go](where_the_time_goes.py). The words: [concepts](../concepts.md).
