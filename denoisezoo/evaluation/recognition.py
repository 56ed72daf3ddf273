"""Whether what arrives still says what was sent: a small classifier of the data looks at reconstructions.

A denoiser can make a clean image of the wrong class, which errors of pixels hardly see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from denoisezoo.diffusion.perceptual import STEPS, Classifier, train_classifier
from denoisezoo.pixels import as_image


@dataclass(frozen=True)
class Recogniser:
    """A trained classifier.

    Attributes:
        classifier: The network.
        accuracy: Its share of right answers on clean held-out images.
    """

    classifier: Classifier
    accuracy: float

    @torch.inference_mode()
    def figures(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """`class_accuracy` of images (N, C, H, W) in [-1, 1] with classes (N,), and that of clean images beside it."""
        parts = as_image(images).float().clamp(-1, 1).split(512)
        predicted = torch.cat([self.classifier(part).argmax(1) for part in parts])
        return {
            "class_accuracy": float((predicted == labels).double().mean()),
            "class_accuracy_clean": self.accuracy,
        }


def recogniser_of(data: Any) -> Recogniser | None:
    """The classifier of a data module, trained when it is first asked for, always alike; None without two classes."""
    if not has_classes(data):
        return None
    content = data.content_hash()
    if content not in _trained:
        _trained[content] = Recogniser(*train_classifier(data, STEPS))
    return _trained[content]


_trained: dict[str, Recogniser] = {}
"""Those of this process, by the hash of their data."""


def has_classes(data: Any) -> bool:
    """Whether the training images have at least two classes."""
    labels = data.labels("train")
    return len(labels.unique()) > 1 and int(labels.min()) >= 0


def held_out_labels(data: Any) -> Tensor:
    """Classes of the images whose conditions `Paired.held_out_pairs` gives, in their order."""
    return torch.as_tensor(data.labels("test" if len(data.images("test")) else "train"))
