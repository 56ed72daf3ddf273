"""The package's own format: safetensors with configuration and card in the header, which loads wherever a run does.

The format can hold tensors and text, and nothing that could be run. The header has one key, "denoisezoo": JSON with
`version`, `format`, `weights`, `recipe`, `card`, `data`, which tells the data from others, and `sha256`, which covers
all of these and every tensor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoisezoo.diffusion import NetworkDenoiser
from denoisezoo.errors import UserError
from denoisezoo.interop.writer import WRITERS, Subject, Writer, Written

SUFFIX, KEY = ".safetensors", "denoisezoo"


@WRITERS.register("safetensors")
class SafetensorsFile(Writer):
    """Writes all of a denoiser: every effort and stage, process, preconditioning and codec."""

    suffix = SUFFIX
    planned = False

    def write(self, subject: Subject, folder: Path) -> list[Written]:
        """See `Writer.write`."""
        if not subject.about.get("recipe"):
            what = f"{subject.name} has no recipe that says how it is made, so that nothing could load the file"
            raise UserError(what, "train it by `fit` or from a recipe, or export it as onnx or pt2")
        file = folder / f"{subject.stem(1.0)}{SUFFIX}"
        save(subject.about, tensors_of(subject.denoiser), file)
        return [Written(path=file.relative_to(folder))]

    def usage(self, subject: Subject, written: Sequence[Written]) -> str:
        """See `Writer.usage`."""
        weights = subject.about["weights"]
        which = "" if weights == "ema" else f', weights="{weights}"'
        return f'import denoisezoo as dz\n\ndenoiser = dz.load("{written[0].path}"{which})\ndenoiser.sample(16)'


def tensors_of(denoiser: NetworkDenoiser) -> dict[str, Tensor]:
    """All weights by name, on the CPU."""
    state = denoiser.state_dict(prefix="denoiser.")
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def save(about: Mapping[str, Any], tensors: dict[str, Tensor], file: Path) -> dict[str, Any]:
    """Write a file.

    Args:
        about: Its header, in plain values, without `sha256`.
        tensors: Its tensors by name.
        file: Where to.

    Returns:
        The header with `sha256`.
    """
    from safetensors.torch import save_file

    header = {**about, "sha256": digest(dict(about), tensors)}
    save_file(tensors, file, metadata={KEY: json.dumps(header)})
    return header


def digest(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 of a header and of the names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
