# %% [markdown]
# # Compare three denoisers on your folder of images
#
# For whoever has a folder of pictures and must choose a network. Three recipes are trained on the same images, each for
# as many of them, sampled on the same noise, judged against the same reference, and priced; a report says who is ahead.
# What is here takes half a minute; an answer that you can use takes the `budget` below times a thousand, and seeds.

# %%
import tempfile
from pathlib import Path

import yaml
from PIL import Image

import denoisezoo as dz

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A folder
#
# Yours is already there: any depth, any size, PNG, JPEG or WebP. For this page it is written from the two photographs
# that come with scikit-learn.

# %%
photos = folder / "photos"
photos.mkdir()
for i, pixels in enumerate(dz.data.Photos(resolution=64, num_train=60, batch_size=1).images("train")):
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(photos / f"{i:03}.png")

# %% [markdown]
# ## Three recipes
#
# A recipe is a YAML file that may *extend* another and say only what differs. `resize` cuts the middle square and
# makes it `resolution` pixels wide; every 20th image is held out. Networks for 16x16 digits have one channel, and
# these pictures have three. For 32x32 pixels extend `photos32/ddpm`, `photos32/adm`, ..., whose networks need no
# change; `denoisezoo list` and the [recipes](../reference/recipes.md) have the names.

# %%
images = {"class_path": "ImageFolder"}
images["init_args"] = {"path": str(photos), "resolution": 16, "resize": True, "batch_size": 16}
recipes = []
for name in ("ddpm", "ddpmpp", "adm"):
    recipe = {
        "extends": f"digits/{name}",
        "model": {"network": {"in_channels": 3, "out_channels": 3}},
        "data": images,
        "trainer": {"accelerator": "cpu"},
    }
    recipes.append(folder / f"{name}.yaml")
    recipes[-1].write_text(yaml.safe_dump(recipe))

# %% [markdown]
# ## On equal terms
#
# The budget is training images for each; `{"macs": 1e15}` and `{"minutes": 30}` are others, and each answers another
# question. With several seeds the report says whether they agree. The same call again goes on where it stopped.

# %%
result = dz.compare(
    recipes, budget={"images": 64}, seeds=[0], sampler="dpmpp_2m", steps=4, num=32, out=folder / "compared"
)
print(result)
assert not any(row.get("error") for row in result.rows())

# %% [markdown]
# `result.report` is a page for the browser: quality against what an image costs, images of each on the same noise,
# training curves, and a table with every figure and its card. Here it is after four steps of training, so that it
# ranks nothing.

# %%
print(result.report.name)
quality = {row["name"]: row["metrics"][result.quality] for row in result.rows()}
print(quality)

# %% [markdown]
# Each training is a run like any other.

# %%
best = min(result.records, key=lambda record: record.metrics[result.quality])
samples = dz.load(folder / "compared" / "runs" / best.name / "seed_0").sample(8, sampler="dpmpp_2m", steps=4)
samples

# %% [markdown]
# ## Where to go next
#
# In the shell it is one line: `denoisezoo compare ddpm.yaml ddpmpp.yaml adm.yaml --budget images=1000000 --seeds
# 0,1,2`. What the figures mean and how far they can be trusted: [what the numbers mean and cost](../cost.md). Other
# kinds of data: [data and references](../data.md). Why one costs more than the other: [where does the time
# go](where_the_time_goes.py).
