"""torch.export's own format, `.pt2`: loaded by `torch.export.load` without this package."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoisezoo.files import json_safe
from denoisezoo.interop.programs import Program, ProgramWriter, Tensors, trace
from denoisezoo.interop.writer import WRITERS, Subject, Written

ABOUT = "denoisezoo.json"
"""The extra file that tells what a program is."""


@WRITERS.register("pt2")
class ExportedProgramFile(ProgramWriter):
    """Writes programs of torch.export. They hold a graph, and are read by the torch that wrote them, or a newer one."""

    suffix = ".pt2"

    def write_program(
        self, program: Program, about: dict[str, Any], file: Path, what: str
    ) -> Callable[[Tensors], Tensor]:
        """See `ProgramWriter.write_program`."""
        torch.export.save(trace(program, what), file, extra_files={ABOUT: json.dumps(json_safe(about))})
        module = torch.export.load(file).module()
        return lambda inputs: module(*inputs)

    def usage(self, subject: Subject, written: Sequence[Written]) -> str:
        """See `Writer.usage`."""
        names = ", ".join(name for name, *_ in written[-1].inputs[:-1])
        return f'import torch\n\nprogram = torch.export.load("{written[-1].path}").module()\ny = program({names})'
