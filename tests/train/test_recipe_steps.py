"""Every shipped recipe takes two steps in its own precision, and one of each kind in every other that there is.

A kind is what a precision can go wrong with: a family of networks, a process with its preconditioning, an objective.
What variants of one family make of bfloat16, the contract tests of backbones say.
"""

import math

import pytest
import torch

from denoisezoo.archs import get_variant
from denoisezoo.data import Digits, ImageData, Paired
from denoisezoo.data.image_data import Split
from denoisezoo.data.store import TensorStore
from denoisezoo.diffusion import perceptual
from denoisezoo.train import callbacks
from denoisezoo.train.allowed import subclasses
from denoisezoo.train.fit import train
from denoisezoo.train.log import read_log
from denoisezoo.train.module import DiffusionModule
from denoisezoo.train.precision import PRECISIONS, full_name
from denoisezoo.train.recipe import parse_recipe
from denoisezoo.train.recipe_files import read_recipe
from denoisezoo.train.recipe_names import find_recipe, list_recipes
from denoisezoo.train.saving import Checkpoints
from denoisezoo.train.teachers import Loaded

BATCH = 2
SMALLEST = ("depth", "2", "width", "32", "heads", "2", "num_classes", "2")  # the images here are of two classes
NARROW = {
    "denoisezoo.archs.small_autoencoder.SmallAutoencoder": ("channels", "4"),
    "ddpm_cifar10": ("channels", "32"),
    "ddpmpp_cifar10": ("channels", "32", "blocks", "1"),
    "slim_ddpm_cifar10": ("channels", "64", "widths", "[0.5, 1.0]"),
    "lucid_unet_64": ("channels", "16"),
    "missing_u_64": ("widths", "[8, 16, 32, 64, 128]"),
    "missing_u_64_discrete": ("widths", "[8, 16, 32, 64, 128]"),
    "missing_u_64_fast": ("widths", "[8, 16, 32, 64, 128]"),
    "missing_u_64_second_order": ("widths", "[8, 16, 32, 64, 128]"),
    "missing_u_64_time": ("widths", "[8, 16, 32, 64, 128]"),
    "dic_small32": ("channels", "8", "multipliers", "[1, 2, 1]", "depths", "[1, 1, 1]"),
    "dico_small32": ("channels", "8", "multipliers", "[1, 2, 2]", "depths", "[1, 1, 1]"),
    "fcdm_small32": ("channels", "8", "multipliers", "[1, 2, 1]", "depths", "[1, 1, 1]"),
    "udit_digits": ("channels", "8", "multipliers", "[1, 2, 2]", "depths", "[1, 1, 1]", "num_heads", "1"),
    "udit_small32": ("channels", "8", "multipliers", "[1, 2, 2]", "depths", "[1, 1, 1]", "num_heads", "1"),
    "timm_unet_small32": ("encoder", "test_convnext", "features", "2", "widths", "[8, 16]"),
    "timm_unet_efficientnet_lite0": ("features", "1", "widths", "[8, 8]"),
    "udpm_small64": ("channels", "16"),
    "dit_small32": ("depth", "2"),
    "sit_small32": ("depth", "2"),
    "uvit_small32": ("depth", "2"),
    "hdit_small32": ("depths", "[1, 1]"),
    "lightningdit_small32": ("depth", "2"),
    "jit_small32": ("depth", "2", "class_start", "0"),
    "ddt_small32": ("depth", "2", "encoder_depth", "1"),
    "dit_xl_2": SMALLEST,
    "sit_xl_2": SMALLEST,
    "uvit_l_2": SMALLEST,
    "lightningdit_xl_1": SMALLEST,
    "ddt_xl_2": (*SMALLEST, "encoder_depth", "1"),
    "jit_b_16": (*SMALLEST, "class_start", "1", "bottleneck", "8"),
    "dico_xl": ("channels", "8", "depths", "[1, 1, 1, 1, 1]", "num_classes", "2"),
    "dic_xl": ("channels", "8", "depths", "[1, 1, 1, 1, 1]", "num_classes", "2"),
    "fcdm_xl": ("channels", "8", "depths", "[1, 1, 1, 1, 1]", "num_classes", "2"),
    "udit_l": ("channels", "8", "depths", "[1, 1, 1, 1, 1]", "num_heads", "1", "num_classes", "2"),
    "edm2_s": ("channels", "16", "blocks", "1", "head_channels", "16", "num_classes", "2"),
}
"""Networks of which two steps take half a minute on a CPU, and what makes them narrower here."""
SHORT = {"Reflow": ("--model.objective.pairs", "4", "--model.objective.steps", "2")}
"""Objectives that make much ready before training, and what makes that little."""


@pytest.fixture(autouse=True)
def short(monkeypatch, tmp_path, untrained_codecs):
    """A few random images in place of all data but the digits; no counting, no checkpoints, no hashes."""

    def few(self, *args):
        shape = (4 * BATCH, self.channels, self.resolution, self.resolution)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        split = Split(TensorStore(pixels), torch.arange(len(pixels)) % 2)
        return {"train": split, "test": split}

    for cls in subclasses(ImageData):
        if "load" in vars(cls) and cls not in (Paired, Digits):
            monkeypatch.setattr(cls, "load", few)
            monkeypatch.setattr(cls, "class_names", ("a", "b"))
            monkeypatch.setattr(cls, "title", "few")
        for attribute, value in (("card", {}), ("fingerprint", "few")):
            if attribute in vars(cls):
                monkeypatch.setattr(cls, attribute, lambda self, value=value: value)
    monkeypatch.chdir(tmp_path)  # recipes with latents have a cache
    monkeypatch.setattr(perceptual, "STEPS", 1)
    monkeypatch.setattr(DiffusionModule, "training_macs", lambda self: None)
    monkeypatch.setattr(callbacks, "peak_flops", lambda trainer: 0.0)
    monkeypatch.setattr(callbacks.gc, "collect", lambda: None)
    monkeypatch.setattr(Checkpoints, "_save", lambda self, trainer: None)


def kind(name):
    """Family, process, preconditioning and objective of a recipe."""
    model = read_recipe(find_recipe(name)).sections["model"]
    parts = (model.get(key) for key in ("process", "preconditioning", "objective"))
    classes = (part.get("class_path") if isinstance(part, dict) else part for part in parts)
    name = model["denoiser"]
    return name if "." in name else get_variant(name).family.name, *classes


def first_of_kinds():
    """Recipes that together have every kind, those for digits first, which are small."""
    seen, found = set(), set()
    for name in sorted(list_recipes(), key=lambda name: not name.startswith("digits/")):
        family, process, preconditioning, objective = kind(name)
        parts = {("network", family), ("process", process, preconditioning), ("objective", objective)}
        if parts - seen:
            found.add(name)
        seen |= parts
    return found


FIRST_OF_KIND = first_of_kinds()


@pytest.mark.parametrize("name", list_recipes())
def test_two_steps(name, tmp_path):
    recipe = read_recipe(find_recipe(name)).sections
    batch_size = "--data.data.init_args.batch_size" if "data" in recipe["data"]["init_args"] else "--data.batch_size"
    narrow = list(NARROW.get(recipe["model"]["denoiser"], ()))
    narrow[::2] = [f"--model.network.{field}" for field in narrow[::2]]
    words = [
        *("--config", name, batch_size, str(BATCH), *narrow, *SHORT.get(kind(name)[-1], ())),
        *("--trainer.accelerator", "cpu", "--trainer.max_steps", "2", "--trainer.log_every_n_steps", "1"),
        *("--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0", "--samples.every_n_steps", "0"),
    ]

    def load(path):
        """In the place of a teacher, or of what training begins with: the recipe's own network, untrained."""
        return Loaded(parse_recipe([*words, "--trainer.logger", "false"]).model.denoiser, "of a test")

    losses = {}
    others = PRECISIONS if name in FIRST_OF_KIND else ()
    for precision in dict.fromkeys([full_name(recipe["trainer"].get("precision")), *others]):
        folder = tmp_path / precision
        result = train([*words, "--trainer.precision", precision, "--trainer.default_root_dir", str(folder)], load)
        assert (result.steps, result.facts["images_seen"]) == (2, 2 * BATCH)
        rows = read_log(folder)
        assert rows[1]["guard/skipped"] == 0, precision
        losses[precision] = [row["train/loss"] for row in rows.values()]
        assert all(map(math.isfinite, losses[precision])), precision
    for found in losses.values():  # the first loss is before any step
        assert found[0] == pytest.approx(losses.get("32-true", found)[0], rel=0.05, abs=0.01)
