"""ONNX files, run by onnxruntime before they are kept; what a file takes and returns is in its metadata."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.files import json_safe
from denoisezoo.interop.programs import Program, ProgramWriter, Tensors, reason_of, trace
from denoisezoo.interop.writer import WRITERS, Subject, Written, needed

OPSET = 18
"""The version of ONNX's operators: the first with all that the exporter writes, which runtimes have known for years."""
ABOUT = "denoisezoo"
"""Key of the metadata that tells what a program is."""
PROVIDER = "CPUExecutionProvider"


@WRITERS.register("onnx")
class OnnxFile(ProgramWriter):
    """Writes ONNX by torch's exporter. Above 2 GB the weights lie beside the file, in NAME.onnx.data."""

    suffix = ".onnx"

    def write_program(
        self, program: Program, about: dict[str, Any], file: Path, what: str
    ) -> Callable[[Tensors], Tensor]:
        """See `ProgramWriter.write_program`."""
        for module in ("onnx", "onnxscript", "onnxruntime"):
            needed(module, "ONNX")
        traced = trace(program, what)
        names, returned = list(program.names), program.inputs[-1][0]
        try:
            with _quiet():
                model = torch.onnx.export(
                    traced,
                    (),
                    dynamo=True,
                    opset_version=OPSET,
                    input_names=names,
                    output_names=[returned],
                    verbose=False,
                )
        except torch.onnx.OnnxExporterError as error:
            raise UserError(f"{what} has no form in ONNX ({reason_of(error)})", "export it as pt2") from error
        assert model is not None, "only the older exporter returns nothing"
        _name_sizes(model.model.graph, program)
        model.model.metadata_props[ABOUT] = json.dumps(json_safe(about | {"opset": OPSET}))
        model.save(file)
        session = open_session(file)

        def run(inputs: Tensors) -> Tensor:
            found = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
            return torch.from_numpy(found[0])

        return run

    def usage(self, subject: Subject, written: Sequence[Written]) -> str:
        """See `Writer.usage`."""
        inputs = ", ".join(f'"{name}": {name}' for name, *_ in written[-1].inputs[:-1])
        return (
            "import onnxruntime\n\n"
            f'session = onnxruntime.InferenceSession("{written[-1].path}", providers=["{PROVIDER}"])\n'
            f"(y,) = session.run(None, {{{inputs}}})  # numpy arrays"
        )


def open_session(file: Path, threads: int = 0) -> Any:
    """A file in onnxruntime, on the CPU.

    Args:
        file: An ONNX file.
        threads: Threads of an operation; 0 for as many as there are cores.

    Raises:
        UserError: onnxruntime is not installed.
        RuntimeError: It cannot run the file.
    """
    ort = needed("onnxruntime", "ONNX")
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads  # errors only
    try:
        return ort.InferenceSession(str(file), options, providers=[PROVIDER])
    except Exception as error:  # its errors have classes of their own, without a common base
        raise RuntimeError(str(error)) from error


def _name_sizes(graph: Any, program: Program) -> None:
    """Call the open sizes of all tensors what they are, "batch" and "tokens", instead of the tracer's s48."""
    import onnx_ir

    names = {str(value.shape[0]): "batch" for value in graph.inputs if value.name == program.names[0]}
    names |= {str(value.shape[1]): "tokens" for value in graph.inputs if value.name == "tokens"}
    values = [*graph.inputs, *graph.outputs, *(value for node in graph for value in node.outputs)]
    for value in values:
        for i, size in enumerate(value.shape or ()):
            if isinstance(size, onnx_ir.SymbolicDim) and size.value:
                text = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), size.value)
                value.shape[i] = onnx_ir.SymbolicDim(text)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on what it does."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
