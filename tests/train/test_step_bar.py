"""What the bar of a training says of how far it is."""

import math
from types import SimpleNamespace

from lightning.pytorch import Callback

from denoisezoo.train.fit import train
from denoisezoo.train.step_bar import StepBar


class Watch(Callback):
    """Keeps what the bar shows at the begin of each step."""

    def __init__(self):
        self.shown = []

    def on_train_batch_start(self, trainer, *args):
        bar = trainer.progress_bar_callback
        assert isinstance(bar, StepBar)
        assert "v_num" not in bar.get_metrics(trainer, trainer.lightning_module)
        task = bar.train_progress_bar
        self.shown.append((task.description.strip(), task.completed, task.total))


def test_a_run_of_steps_counts_them_over_all_epochs(arguments, look):
    watch = look(Watch())
    train(arguments("--trainer.enable_progress_bar", "true", "--data.init_args.batch_size", 500))  # 3 steps an epoch
    assert watch.shown == [("Step", step, 4) for step in range(4)]


def test_a_run_of_epochs_counts_their_batches(arguments, look):
    watch = look(Watch())
    epochs = ["--trainer.max_epochs", "2", "--trainer.max_steps", "-1", "--data.init_args.batch_size", "800"]
    train(arguments("--trainer.enable_progress_bar", "true", *epochs))
    assert [(text.split("/")[0], done) for text, done, _ in watch.shown] == [
        ("Epoch 0", 0), ("Epoch 0", 1), ("Epoch 1", 0), ("Epoch 1", 1),
    ]  # fmt: skip
    assert {total for *_, total in watch.shown} == {2}


def test_a_run_that_the_clock_ends_has_no_total():
    bar = StepBar()
    bar._trainer = SimpleNamespace(max_epochs=-1, max_steps=-1)
    assert bar.total_train_batches == math.inf
