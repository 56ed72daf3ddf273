"""Shared by the tests of training."""

import pytest

from denoisezoo.diffusion.codecs import autoencoder
from denoisezoo.train import fit
from denoisezoo.train.recipe_files import read_recipe
from denoisezoo.train.recipe_names import find_recipe


@pytest.fixture
def look(monkeypatch):
    """Makes the next trainings have that callback."""
    build = fit.parse_recipe

    def with_callback(callback):
        def parse(args):
            cli = build(args)
            cli.trainer.callbacks.append(callback)
            return cli

        monkeypatch.setattr(fit, "parse_recipe", parse)
        return callback

    return with_callback


@pytest.fixture
def untrained_codecs(monkeypatch):
    """In the place of the run of an autoencoder that a recipe wants: its recipe's network, untrained."""

    def read(path):
        model = read_recipe(find_recipe(path.removeprefix("runs/"))).sections["model"]
        config = {key: model[key] for key in ("denoiser", "network")}
        return autoencoder.network_of(config, path), config

    monkeypatch.setattr(autoencoder, "read_network", read)
