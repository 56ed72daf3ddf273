"""The LightningModule of a recipe: the denoiser that its section `model` describes, in training."""

from __future__ import annotations

from typing import Any

from denoisezoo.diffusion import Codec, Objective, Preconditioning, Process
from denoisezoo.train.described import build_denoiser
from denoisezoo.train.training_module import TrainingModule


class DiffusionModule(TrainingModule):
    """The denoiser of a recipe, in training: the section `model` holds these arguments.

    Args:
        denoiser: Registry name of the backbone, or the path of a `Backbone` class, such as their.module.Net.
        process: How images are destroyed.
        preconditioning: How the backbone's input and output relate to the process.
        objective: See `TrainingModule`.
        network: Fields of the backbone's configuration to change, e.g. {num_classes: 10}; arguments of the class.
        codec: What is diffused in place of pixels, or its name with options; pixels unless given.
        **training: See `TrainingModule`.
    """

    def __init__(
        self,
        denoiser: str,
        process: Process,
        preconditioning: Preconditioning,
        objective: Objective,
        network: dict[str, Any] | None = None,
        codec: Codec | str | None = None,
        **training: Any,
    ) -> None:
        made, family = build_denoiser(denoiser, process, preconditioning, network, codec)
        super().__init__(made, objective, name=denoiser.rpartition(".")[2], family=family, **training)
