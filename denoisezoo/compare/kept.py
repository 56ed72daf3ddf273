"""What `compare` keeps of a run that it has judged: the record and its pictures, beside the run, by the terms of both.

Sampling takes longer than all else of a comparison that is resumed. A record holds again only on the very terms that it
was made on; another checkpoint, sampler, seed, data set or version of the code judges anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch

from denoisezoo.compare.records import RunRecord
from denoisezoo.data import ImageData
from denoisezoo.evaluation.card import device_name, versions
from denoisezoo.evaluation.metrics import Evaluator
from denoisezoo.files import json_safe, sha256, write_json
from denoisezoo.runs.run import Run
from denoisezoo.runs.terms import Settings

FOLDER, RECORD = "assessments", "record.json"


@dataclass(frozen=True)
class Kept:
    """The place of a record.

    Attributes:
        folder: In the run's folder, by the hash of the terms.
        terms: From `terms_of`.
    """

    folder: Path
    terms: dict[str, Any]

    @classmethod
    def of(cls, run: Path, terms: dict[str, Any]) -> Kept:
        """The place in a run folder."""
        key = hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()[:16]
        return cls(run / FOLDER / key, terms)

    @property
    def samples(self) -> Path:
        """The grid of samples."""
        return self.folder / "samples.png"

    @property
    def neighbours(self) -> Path:
        """The picture of samples beside their nearest training images."""
        return self.folder / "neighbours.png"

    def load(self) -> RunRecord | None:
        """The record; None where there is none, or where it is damaged or lacks a picture."""
        try:
            kept = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
            record = RunRecord.from_json(kept["record"])
            usable = kept["terms"] == self.terms and self.samples.is_file() and self.neighbours.is_file()
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if usable else None

    def save(self, record: RunRecord) -> None:
        """Keep a record, whose pictures are there.

        Raises:
            UserError: The run's folder cannot be written.
        """
        write_json(self.folder / RECORD, {"terms": self.terms, "record": record.to_json()})


def terms_of(run: Run, data: ImageData, settings: Settings, evaluator: Evaluator) -> dict[str, Any]:
    """Everything that a run's figures depend on, as plain data: among them what their times do."""
    stated = {field.name: getattr(settings, field.name) for field in fields(settings)}
    stated |= {
        "num": settings.num or len(evaluator.reference),
        "dtype": str(settings.dtype),
        "plan": settings.plan and settings.plan.to_json(),
        "lpips": settings.lpips and sha256(settings.lpips),
    }
    terms: dict[str, Any] = json_safe(
        {
            "checkpoint": None if run.checkpoint is None else sha256(run.checkpoint),
            "weights": run.weights,
            "training": run.facts,
            "data": data.card(),
            "settings": stated,
            "features": evaluator.features_sha256,
            "code": code_sha256(),
            "versions": versions(),
            "device": device_name(settings.device),
            "threads": torch.get_num_threads(),
        }
    )
    return terms


@cache
def code_sha256() -> str:
    """Hash of this package's source: its version number stays the same while it is worked on."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()} {sha256(path)}\n".encode())
    return digest.hexdigest()
