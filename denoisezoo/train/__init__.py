"""The trainer: one LightningModule, its average, guard, callbacks and checkpoints."""

from denoisezoo.callable_package import make_callable

make_callable(__name__)  # denoisezoo.train(...) is a function of the public API
