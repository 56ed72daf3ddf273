"""Pooled features of any network of timm, with weights from a file: DINOv2's and CLIP's image towers among them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from denoisezoo.errors import UserError, unknown
from denoisezoo.evaluation.features.extractor import FEATURES, NetworkFeatures
from denoisezoo.files import local_path, sha256


@FEATURES.register("timm")
class TimmFeatures(NetworkFeatures):
    """What a network of timm gives its classifier: `timm:resnet18,weights=resnet18.safetensors`.

    `timm:vit_small_patch14_dinov2,weights=dinov2_vits14_pretrain.pth` are DINOv2's features. Mean and deviation of the
    input are those of the network's configuration in timm, its size too unless given.

    Args:
        model: Name of the network.
        weights: File of its weights, .safetensors or of torch.save, in timm's keys or others that timm converts.
        size: Height and width that images are resized to.

    Raises:
        UserError: Unknown network, missing or damaged file, one of another network, or a size that it does not take.
    """

    name = "timm"
    options: ClassVar[Mapping[str, Any]] = {"model": str, "weights": str, "size": int}
    leading = "model"

    def __init__(self, model: str = "", weights: str | os.PathLike[str] = "", size: int | None = None) -> None:
        import timm

        if not model:
            raise UserError("the features timm name no network", "give e.g. `timm:resnet18,weights=FILE`")
        if not timm.is_model(model):
            raise unknown("network of timm", model, timm.list_models())
        if not weights:
            raise UserError(f"the features timm:{model} need weights", f"give their file, `timm:{model},weights=FILE`")
        path = local_path(weights)
        if not path.is_file():
            raise UserError(f"weights of {model} are not at {path}", "pass the path of a file of timm's weights")
        self.weights_sha256 = sha256(path)
        source = {"file": str(path), "hf_hub_id": None, "url": ""}  # and no download
        try:
            network = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=source, num_classes=0)
        except Exception as error:  # torch.load raises nearly anything on bytes that are not a checkpoint
            raise UserError(
                f"{path} does not hold weights of {model}, or is damaged", f"pass a file of timm's {model}"
            ) from error
        config = timm.data.resolve_model_data_config(network)
        chosen = size or config["input_size"][-1]
        self.name = f"timm:{model}" + ("" if size is None else f",size={size}")
        mean, std = ([255 * value for value in config[key]] for key in ("mean", "std"))
        super().__init__(network, chosen, mean, std)
        try:
            with torch.inference_mode():
                self(torch.zeros(1, 3, chosen, chosen, dtype=torch.uint8))
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"{model} does not take images of {chosen} pixels", "leave `size` out") from error
