"""What perceptual losses look with: VGG-16 by the path of its weights, or a small classifier trained on the data."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.errors import UserError
from denoisezoo.files import atomic_path, local_path, sha256
from denoisezoo.nn.blocks import group_norm
from denoisezoo.pixels import to_float

FILE = "perceptual.safetensors"
"""Where a run folder keeps the classifier that was trained for it."""
VGG_FILE = "vgg16-397923af.pth"
VGG_LAYERS = (3, 8, 15, 22, 29)
"""The activations that LPIPS compares (arXiv 1801.03924): the last before each pooling, relu1_2 to relu5_3."""
WIDTHS = (16, 32, 64)
STEPS, BATCH = 400, 128


class PerceptualNetwork(nn.Module):
    """Frozen stages of a network that sees images; `forward` returns the output of each.

    Args:
        stages: They follow each other.
        title: What a card calls it.
        channels: Channels that it takes; grey images are repeated.
        mean: Subtracted from images in [0, 1], for each channel.
        std: Divided by.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        stages: nn.ModuleList,
        title: str,
        channels: int,
        mean: tuple[float, ...] = (0.5,),
        std: tuple[float, ...] = (0.5,),
    ) -> None:
        super().__init__()
        self.stages, self.title, self.channels = stages.eval().requires_grad_(False), title, channels
        self.register_buffer("mean", torch.tensor(mean, device="cpu").reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, device="cpu").reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of images (B, C, H, W) in [-1, 1], as many as their size allows."""
        h = images.expand(-1, self.channels, -1, -1) if images.shape[1] == 1 else images
        h = (h / 2 + 0.5 - self.mean) / self.std
        maps = []
        for i, stage in enumerate(self.stages):
            if i and min(h.shape[-2:]) < 2:
                break  # there is nothing left to pool
            h = stage(h)
            maps.append(h)
        return maps


def check_perceptual(vgg: str | None, data: Any) -> None:
    """Refuse what cannot become a perceptual network, before anything is read.

    Raises:
        UserError: The weights are not there.
    """
    if vgg is not None and not local_path(vgg).is_file():
        raise UserError(
            f"VGG-16 weights are not at {vgg}",
            f"give the path of torchvision's {VGG_FILE}, or leave vgg out for a classifier trained on {data.title}",
        )


def perceptual_network(vgg: str | None, data: Any, folder: Path) -> PerceptualNetwork:
    """VGG-16, or the classifier of a run folder, trained first if it is not there.

    Args:
        vgg: File of VGG-16 weights.
        data: The data module, set up.
        folder: The run folder.

    Raises:
        UserError: Weights are missing or damaged, or there are no classes to train a classifier on.
    """
    if vgg is not None:
        return load_vgg(Path(vgg))
    path = folder / FILE
    if not path.is_file():
        classifier, accuracy = train_classifier(data, STEPS)
        _keep(classifier, accuracy, data, path)
    return _load_classifier(path)


def load_vgg(path: Path) -> PerceptualNetwork:
    """VGG-16 with torchvision's weights.

    Raises:
        UserError: The file is damaged, or holds other weights.
    """
    from torchvision.models import vgg16

    with torch.device("meta"):
        layers = vgg16(weights=None).features[: VGG_LAYERS[-1] + 1]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        wanted = {name: state[f"features.{name}"] for name in layers.state_dict()}
        layers.load_state_dict(wanted, assign=True)
    except Exception as error:  # torch.load raises nearly anything on bytes that are not a checkpoint
        raise UserError(f"{path} does not hold VGG-16 weights, or is damaged", f"fetch {VGG_FILE} again") from error
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # activations are returned
    stages = nn.ModuleList(layers[a + 1 : b + 1] for a, b in itertools.pairwise((-1, *VGG_LAYERS)))
    return PerceptualNetwork(stages, f"vgg16 {sha256(path)[:16]}", 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def classifier_stages(channels: int) -> nn.ModuleList:
    """Convolutions of a small classifier, each stage but the first at half the size."""
    stages = nn.ModuleList()
    for i, width in enumerate(WIDTHS):
        layers: list[nn.Module] = [nn.AvgPool2d(2)] if i else []
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1), group_norm(width, 1e-5), nn.ReLU()]
            channels = width
        stages.append(nn.Sequential(*layers))
    return stages


class Classifier(nn.Module):
    """A small convolutional network for images of any size.

    Args:
        channels: Of the images.
        classes: How many there are.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stages = classifier_stages(channels)
        self.head = nn.Linear(WIDTHS[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        h = images
        for stage in self.stages:
            h = stage(h)
        logits: Tensor = self.head(h.mean((2, 3)))
        return logits


def train_classifier(data: Any, steps: int) -> tuple[Classifier, float]:
    """A classifier of the training images, whole and at half their size, always with the same random numbers.

    Args:
        data: The data module, set up.
        steps: Steps of batch `BATCH`.

    Returns:
        The classifier, and its accuracy on held-out images (training images where nothing is held out).

    Raises:
        UserError: The data have no two classes.
    """
    labels = data.labels("train")
    if len(labels.unique()) < 2 or int(labels.min()) < 0:
        raise UserError(
            f"{data.title} has no classes to train a perceptual network on",
            "give VGG-16 weights by path as objective.vgg, or no weight in objective.perceptual",
        )
    images = data.images("train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = Classifier(images.shape[1], int(labels.max()) + 1)
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        for step in range(steps):
            chosen = torch.randint(len(images), (BATCH,))
            batch = to_float(images[chosen])
            batch = F.avg_pool2d(batch, 2) if step % 2 else batch
            optimizer.zero_grad()
            F.cross_entropy(classifier(batch), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    return classifier, accuracy_of(classifier, data)


@torch.inference_mode()
def accuracy_of(classifier: Classifier, data: Any) -> float:
    """Share of held-out images that are classified right."""
    split = "test" if len(data.images("test")) else "train"
    images, labels = data.images(split), data.labels(split)
    predicted = torch.cat([classifier(to_float(part)).argmax(1) for part in images.split(512)])
    return float((predicted == labels).float().mean())


def _keep(classifier: Classifier, accuracy: float, data: Any, path: Path) -> None:
    from safetensors.torch import save_file

    about = {"data": data.title, "accuracy": accuracy, "channels": data.channels}
    tensors = {name: value.contiguous() for name, value in classifier.stages.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"classifier": json.dumps(about)})


def _load_classifier(path: Path) -> PerceptualNetwork:
    from safetensors import safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            about = json.loads((file.metadata() or {})["classifier"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with torch.device("meta"):  # no random numbers are drawn
            stages = classifier_stages(about["channels"])
        stages.load_state_dict(state, assign=True)
    except Exception as error:  # whatever a damaged file makes of the reader
        raise UserError(f"{path} is damaged", "delete it; it is trained again") from error
    title = f"classifier of {about['data']}, accuracy {about['accuracy']:.3f}, {sha256(path)[:16]}"
    return PerceptualNetwork(stages, title, about["channels"])
