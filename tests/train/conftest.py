"""A recipe that trains in seconds: the tiny variant of whatever family comes first, on digits at 8x8."""

import pytest
import yaml

from denoisezoo.archs import get_variant, list_denoisers

RECIPE = """
seed_everything: 0
model:
  denoiser: NAME
  network: {in_channels: 1, out_channels: 1, cond_channels: 0, augment_dim: 0, num_classes: 0, resolution: 16}
  process: {class_path: EDM}
  preconditioning: {class_path: EDMPreconditioning}
  objective: {class_path: EDMLoss}
  optimizer: {lr: 0.001}
data:
  class_path: Digits
  init_args: {batch_size: 32}
trainer:
  max_steps: 4
  accelerator: cpu
  log_every_n_steps: 1
  enable_progress_bar: false
  limit_val_batches: 0
samples: {every_n_steps: 0}
checkpoint: {every_n_steps: 2}
"""


@pytest.fixture
def tiny():
    """Name of a tiny variant."""
    return next(name for name in list_denoisers() if "tiny" in get_variant(name).tags)


@pytest.fixture
def recipe(tmp_path, tiny):
    """Path of the recipe."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("NAME", tiny))
    assert yaml.safe_load(path.read_text())["model"]["denoiser"] == tiny
    return path


@pytest.fixture
def arguments(recipe, tmp_path):
    """Arguments of `train` for it."""

    def make(*more, folder="run"):
        return ["--config", str(recipe), "--trainer.default_root_dir", str(tmp_path / folder), *map(str, more)]

    return make
