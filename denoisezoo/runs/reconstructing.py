"""Autoencoders judged by what comes back of held-out images, and priced: `denoisezoo evaluate` of the run of one."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from denoisezoo.data import ImageData
from denoisezoo.diffusion.codecs import Codec
from denoisezoo.diffusion.codecs.autoencoder import Autoencoder
from denoisezoo.diffusion.generate import Samples
from denoisezoo.errors import UserError
from denoisezoo.evaluation.card import ResultCard
from denoisezoo.evaluation.lpips import LPIPS, mean_distance
from denoisezoo.evaluation.metrics import Evaluator, pixels_of, roomy
from denoisezoo.evaluation.reconstruction import reconstruction_figures
from denoisezoo.pictures import image_grid
from denoisezoo.pixels import as_image, to_float
from denoisezoo.profiling.trajectory import trace_codec
from denoisezoo.runs.assessor import Assessment, figures_table
from denoisezoo.runs.published import FACTS
from denoisezoo.runs.run import Run, to_device
from denoisezoo.runs.terms import Settings
from denoisezoo.tables import Table

OF_DENOISERS = ("plan", "guidance", "guide", "label", "condition", "by_class", "details", "compile")
"""Terms that an autoencoder has nothing to do with."""


@dataclass(frozen=True)
class ReconstructionAssessment(Assessment):
    """Figures of an autoencoder: `generated` is what came back, and `trajectory` has the rows "encode" and "decode".

    Attributes:
        originals: The images that went in, uint8 (N, C, H, W).
    """

    originals: Tensor = field(default_factory=lambda: torch.zeros(0), repr=False)

    def picture(self, num: int) -> np.ndarray:
        """Half as many images, a row of them above the row of what came back, and so on."""
        columns = max(1, min(8, num // 2, len(self.originals)))
        rows = max(1, num // 2 // columns)
        made = pixels_of(self.generated.images[: rows * columns], "reconstructed")
        pairs = zip(self.originals[: rows * columns].split(columns), made.split(columns), strict=True)
        return image_grid(torch.cat([torch.cat(pair) for pair in pairs if len(pair[0]) == columns]), columns)

    def summary(self) -> Table:
        """The metrics, the price of each way, and of the card what one looks for first."""
        price = {f"{call.label}_macs": call.macs for call in self.trajectory.codec}
        return figures_table(self.run.name, self.metrics | price, self.card)

    def rows(self) -> list[dict[str, Any]]:
        """One row: metrics, price of each way, and the whole card."""
        (row,) = super().rows()
        for call in self.trajectory.codec:
            row |= {f"{call.label}_macs": call.macs, f"{call.label}_ms": call.latency_ms}
        return [row]


@torch.inference_mode()
def reconstruct(codec: Codec, images: Tensor, batch_size: int = 256, device: torch.device | str = "cpu") -> Tensor:
    """What comes back of images (N, C, H, W), uint8 or in [-1, 1], by way of the mean of their latents; not clipped.

    Args:
        codec: On the device.
        images: The images.
        batch_size: Images at a time.
        device: Where the codec is; what comes back is on the CPU.
    """
    parts = (as_image(part).to(device) for part in images.split(batch_size))
    return torch.cat([codec.to_images(codec.to_latents(part)).cpu() for part in parts])


def assess_reconstruction(run: Run, data: ImageData, settings: Settings) -> ReconstructionAssessment:
    """Encode held-out images to the mean of their latents, decode, and compare.

    Args:
        run: Of an autoencoder.
        data: Held-out images of these are taken, or training images where nothing is held out, or what `split` says.
        settings: Of these `num` (as many as there are), `features`, `split`, `lpips`, `batch_size`, `device`, `dtype`.

    Returns:
        `psnr`, `mse_db`, `ssim`, `cosine`, and the figures of `evaluate_images` against the very images that went in.

    Raises:
        UserError: There are no such images, or a term is for denoisers.
    """
    if given := next((name for name in OF_DENOISERS if getattr(settings, name)), None):
        raise UserError(f"`{given}` is for denoisers, and {run.name} is an autoencoder", f"leave `{given}` out")
    held_out: Literal["test", "train"] = "test" if len(data.images("test")) else "train"
    split = held_out if settings.split == "all" else settings.split
    originals = data.images(split)[: settings.num]
    if len(originals) < 2:
        raise UserError(f"{data.title} has no {split} images to encode", "give `split=train`, or other data")
    codec = Autoencoder.around(to_device(run, settings.device, settings.dtype).backbone)
    device, start = torch.device(settings.device), time.perf_counter()
    reconstructed = reconstruct(codec, originals, settings.batch_size, device)
    seconds = time.perf_counter() - start
    evaluator = Evaluator(originals, features=settings.features, device=roomy(settings.device, originals))
    metrics = reconstruction_figures(reconstructed, originals) | evaluator.evaluate(reconstructed.clamp(-1, 1))
    lpips = None if settings.lpips is None else LPIPS(settings.lpips)
    if lpips is not None:
        metrics["lpips"] = mean_distance(lpips, reconstructed.clamp(-1, 1), to_float(originals))
    trajectory = trace_codec(codec, to_float(originals[:1]).to(device, codec.dtype))
    card = ResultCard.here(
        settings.device,
        **{key: data.card()[key] for key in ("dataset", "dataset_sha256")},
        split=split,
        resolution=data.resolution,
        num_generated=len(reconstructed),
        num_reference=len(originals),
        features=settings.features,
        features_sha256=evaluator.features_sha256,
        lpips_sha256=None if lpips is None else lpips.weights_sha256,
        weights=run.weights_text,
        training_seed=run.facts.get("seed"),
        **{key: run.facts.get(key) for key in FACTS},
        **codec.facts(),
        params=sum(p.numel() for p in codec.parameters()),
        macs_per_image=trajectory.macs_per_image,
        dtype=str(settings.dtype).removeprefix("torch."),
        compiled=False,
        threads=torch.get_num_threads(),
    )
    return ReconstructionAssessment(
        run=run,
        metrics=metrics,
        card=card,
        generated=Samples(reconstructed, None, 0, seconds),
        trajectory=trajectory,
        latency_ms=1000 * seconds / len(originals),
        originals=originals,
    )
