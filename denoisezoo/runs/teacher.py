"""The loader of the trainer: a run that training begins with or learns from."""

from __future__ import annotations

from denoisezoo.files import sha256
from denoisezoo.runs.run import load_run
from denoisezoo.train.teachers import Loaded


def load_teacher(path: str) -> Loaded:
    """The denoiser of a run, with its averaged weights; see `load_run`.

    Raises:
        UserError: There is no such run, or its file is damaged.
    """
    run = load_run(path)
    assert run.checkpoint is not None, "what is loaded has a file"
    return Loaded(run.denoiser, sha256(run.checkpoint))
