"""Shared by all tests."""

import gc
import shutil

import pytest
import torch
import yaml

from denoisezoo.archs import get_variant, list_denoisers
from denoisezoo.diffusion.codecs import autoencoder
from denoisezoo.train.recipe_files import read_recipe
from denoisezoo.train.recipe_names import find_recipe
from tests.train.wandb_file import wait_until_written

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


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny networks gain nothing from threads and lose much where others want the cores.

    All of a session has one: what a fixture trains shall add up as what its test trains.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def frozen_imports():
    """Take what is imported and kept out of the garbage collector's sight.

    Every training collects once at its start; to walk through torch and Lightning takes longer than its four steps.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    """Let the interpreter take down at its exit what was frozen."""
    gc.unfreeze()


def pytest_collection_modifyitems(items):
    """Tests marked gpu skip, with a reason, where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


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


@pytest.fixture(scope="session")
def runs_of_session(tmp_path_factory):
    """A folder, and the runs in it by the arguments that they were trained with."""
    return tmp_path_factory.mktemp("runs"), {}


@pytest.fixture
def trained(runs_of_session, tiny, tmp_path):
    """Makes a run folder of the recipe: what several tests need is trained once, and each gets a copy."""
    home, folders = runs_of_session

    def make(*more, folder="run"):
        from denoisezoo.train.fit import train

        words = tuple(map(str, more))
        if words not in folders:
            (home / "recipe.yaml").write_text(RECIPE.replace("NAME", tiny))
            original = home / str(len(folders))
            train(["--config", str(home / "recipe.yaml"), "--trainer.default_root_dir", str(original), *words])
            wait_until_written(original)
            folders[words] = original
        return shutil.copytree(folders[words], tmp_path / folder, symlinks=True)

    return make


@pytest.fixture
def untrained_codecs(monkeypatch):
    """In the place of the run of an autoencoder that a recipe wants: its recipe's network, untrained."""

    def read(path):
        model = read_recipe(find_recipe(path.removeprefix("runs/"))).sections["model"]
        config = {key: model[key] for key in ("denoiser", "network")}
        return autoencoder.network_of(config, path), config

    monkeypatch.setattr(autoencoder, "read_network", read)
