"""Shared by the tests of training."""

import pytest

from denoisezoo.train import fit


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
