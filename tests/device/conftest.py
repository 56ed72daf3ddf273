"""The pretended device, or a reason why there is none."""

import pytest
import torch
from lightning.pytorch import Callback

from denoisezoo.train import fit
from tests.device import pretended

WORDS = [
    *("--trainer.max_steps", "6", "--trainer.log_every_n_steps", "3", "--checkpoint.every_n_steps", "100"),
    *("--model.network.dropout", "0.0", "--model.compile", "false", "--model.channels_last", "true"),
]


# Before the first backward pass of the process, for which autograd counts devices. Once it is known, torch.compile
# asks it for what it does not have, so that `make test` runs this folder in processes of its own.
pretended.register()


@pytest.fixture(autouse=True)
def device(monkeypatch):
    """Skips where torch has no such interface any more."""
    if pretended.missing:
        pytest.skip(pretended.missing)
    # The speed of a device that is not there cannot be measured.
    monkeypatch.setattr("denoisezoo.train.callbacks.peak_flops", lambda trainer: 0.0)


class Steps(Callback):
    """What was counted up to the beginning of every step."""

    def __init__(self):
        self.waits = []

    def on_train_batch_start(self, *_):
        self.waits.append(pretended.waits.copy())


@pytest.fixture
def trains(arguments, monkeypatch):
    """Trains the recipe on a device, and gives its final state and what each step but the first has waited for."""
    build = fit.parse_recipe

    def train(device, *more, folder=None):
        steps = Steps()

        def parse(args):
            cli = build(args)
            cli.trainer.callbacks.append(steps)
            return cli

        monkeypatch.setattr(fit, "parse_recipe", parse)
        words = arguments(*WORDS, "--trainer.accelerator", device, *more, folder=folder or device)
        with pretended.on(device):
            run = fit.train(words)
        # The batch of the next step comes with it: what a step waits for ends before that.
        waits = [after - before for before, after in zip(steps.waits[1:], steps.waits[2:], strict=False)]
        path = words[words.index("--trainer.default_root_dir") + 1] + "/checkpoints/last.ckpt"
        return torch.load(path, weights_only=True), waits, run

    return train
