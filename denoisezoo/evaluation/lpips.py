"""LPIPS with AlexNet: "The Unreasonable Effectiveness of Deep Features", Zhang et al. 2018, arXiv 1801.03924.

The weights of the layers' channels come with torchmetrics; AlexNet's own are torchvision's file, given by its path.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.errors import UserError
from denoisezoo.files import local_path, sha256
from denoisezoo.pixels import as_image

ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
LAYERS = (1, 4, 7, 9, 11)
"""Places of the five ReLUs in torchvision's AlexNet."""
SMALLEST = 64
"""Pixels that smaller images are enlarged to, bilinearly: AlexNet cannot take them as they are."""


class LPIPS(nn.Module):
    """Perceptual distance of images.

    Args:
        weights: torchvision's AlexNet, `alexnet-owt-7be5be79.pth`.

    Attributes:
        weights_sha256: Hash of the file.

    Raises:
        UserError: There is no such file, or it is damaged or of another network.
    """

    def __init__(self, weights: str | os.PathLike[str]) -> None:
        super().__init__()
        from torchvision.models import alexnet

        self.features: nn.Sequential = alexnet(weights=None).features
        self._load(local_path(weights))
        self.weights_sha256 = sha256(weights)
        for index, head in enumerate(_heads()):
            self.register_buffer(f"head{index}", head)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])
        self.shift: Tensor
        self.scale: Tensor
        self.eval().requires_grad_(False)

    def _load(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"LPIPS weights are not at {path}", f"pass the path of torchvision's {ALEXNET_FILE}")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            kept = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
            self.features.load_state_dict(kept)
        except Exception as error:  # torch.load raises nearly anything on bytes that are not a checkpoint
            raise UserError(
                f"{path} does not hold AlexNet's weights, or is damaged", f"fetch {ALEXNET_FILE} of torchvision again"
            ) from error

    def _activations(self, image: Tensor) -> list[Tensor]:
        """Unit vectors over channels of five layers, each (B, C, H, W)."""
        if image.shape[1] == 1:
            image = image.expand(-1, 3, -1, -1)
        if min(image.shape[-2:]) < SMALLEST:
            image = F.interpolate(image, size=(SMALLEST, SMALLEST), mode="bilinear", align_corners=False)
        h, found = (image - self.shift) / self.scale, []
        for index, layer in enumerate(self.features):
            h = layer(h)
            if index in LAYERS:
                found.append(h / (h.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    @torch.inference_mode()
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (B,) of images (B, 1 or 3, H, W) in [-1, 1]; 0 for equal ones."""
        pairs = zip(*(self._activations(as_image(x).float().clamp(-1, 1)) for x in (a, b)), strict=True)
        layers = [
            (self.get_buffer(f"head{i}") * (x - y).square()).sum(1).mean((1, 2)) for i, (x, y) in enumerate(pairs)
        ]
        return torch.stack(layers).sum(0)


def _heads() -> list[Tensor]:
    """Weights of the channels (C, 1, 1) of each layer."""
    spec = find_spec("torchmetrics")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "functional" / "image" / "lpips_models" / "alex.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [state[f"lin{i}.model.1.weight"][0] for i in range(len(LAYERS))]


def mean_distance(lpips: LPIPS, a: Tensor, b: Tensor, batch_size: int = 64) -> float:
    """Mean over pairs of images (N, C, H, W)."""
    parts = [lpips(x, y) for x, y in zip(a.split(batch_size), b.split(batch_size), strict=True)]
    return float(torch.cat(parts).mean())
