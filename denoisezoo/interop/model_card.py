"""The README.md beside what is exported: what it is, how it was trained and judged, what goes in and comes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from denoisezoo.archs.variants import find_variant
from denoisezoo.diffusion import NetworkDenoiser
from denoisezoo.diffusion.processes.process import ScalarProcess
from denoisezoo.files import sha256
from denoisezoo.interop.programs import title
from denoisezoo.interop.writer import Subject, Writer, Written
from denoisezoo.plans import Plan

README = "README.md"
MARK = "library_name: denoisezoo"
"""By what a card of ours is told from a file of somebody else's."""
LEVELS = 9
"""Rows of the table of noise levels."""
JUDGED = ("num_generated", "num_reference", "split", "features", "sampler", "steps", "nfe", "guidance", "plan", "seeds")
TRAINED = ("dataset", "dataset_sha256", "images_seen", "train_steps", "train_seconds", "train_macs", "training_seed")


def model_card(subject: Subject, writer: Writer, written: Sequence[Written], folder: Path, license: str) -> str:
    """The text of the card.

    Args:
        subject: What was exported.
        writer: By what.
        written: The files.
        folder: Where they are.
        license: Of the weights, as Hugging Face names it.
    """
    card = subject.about.get("card", {})
    head = f"---\nlicense: {license}\n{MARK}\ntags: [diffusion, denoising]\n---\n\n# {subject.name}\n\n"
    sections = {
        "": _what(subject, card),
        "Files": _files(written, folder, subject.plan),
        "Inputs and output": _inputs(written[-1]),
        "Noise levels": _levels(subject.denoiser) if writer.parts else "",
        "Use": f"```python\n{writer.usage(subject, written)}\n```",
        "Training": _facts({key: card.get(key) for key in TRAINED} | _recipe(subject)),
        "Evaluation": _evaluation(card),
        "Licence": f"{license}. It is what who exported the weights says of them; data sets have terms of their own.",
    }
    return (
        head + "\n\n".join(f"## {name}\n\n{text}" if name else text for name, text in sections.items() if text) + "\n"
    )


def _what(subject: Subject, card: Mapping[str, Any]) -> str:
    denoiser = subject.denoiser
    C, H, W = denoiser.image_shape
    known = [f"A denoiser of {C}x{H}x{W} images, {card.get('params', 0):,} parameters."]
    if found := find_variant(denoiser.backbone):
        family = found[0].family
        known.append(f"Family {family.name}: {family.title}, {family.authors} {family.year}, arXiv {family.arxiv}.")
    known.append(f"Process {title(denoiser.process)}, preconditioning {title(denoiser.preconditioning)}.")
    if not denoiser.codec.identity:
        known.append(f"It denoises the latents of {denoiser.codec.title}, which is not in the files.")
    if source := subject.about.get("recipe", {}).get("source"):
        known.append(f"Imported from {source['file']} ({source['format']}, SHA-256 {source['sha256']}).")
    what = {"network": "the network F alone", "denoiser": "the denoiser D, with preconditioning and c_noise inside"}
    if subject.part:
        known.append(f"Exported is {what[subject.part]}.")
    return " ".join(known)


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _files(written: Sequence[Written], folder: Path, plan: Plan | None) -> str:
    rows = []
    for file in written:
        served = [f"effort {file.effort:g}"] if plan is not None and file.effort is not None else []
        served += [f"images of {file.side}x{file.side}"] if file.side else []
        served += ["times from {:g} to {:g}".format(*file.times)] if file.times else []
        path = folder / file.path
        gap = "-" if file.difference is None else f"{file.difference:.1e}"
        digest = sha256(path) if path.is_file() else "-"
        rows.append((f"`{file.path}`" if file.path.name else "this folder", ", ".join(served) or "all", gap, digest))
    text = _table(("file", "for", "difference", "SHA-256"), rows)
    if any(file.inputs for file in written):
        text += "\n\nDifference is the largest of an output from the network's, at batch sizes that were not traced."
    if plan is not None:
        edges = [f"{edge:g}" for edge in plan.edges]
        bounds = [f"{low} to {high}" for low, high in zip(["-inf", *edges], [*edges, "inf"], strict=True)]
        efforts = [f"{effort:g}" for effort in plan.efforts]
        text += "\n\nThe plan, from noise to image:\n\n"
        text += _table(("log-SNR, ln(alpha^2 / sigma^2)", "effort"), zip(bounds, efforts, strict=True))
    return text


def _inputs(written: Written) -> str:
    if not written.inputs:
        return ""
    *inputs, output = written.inputs
    rows = [*((f"`{name}`", *rest) for name, *rest in inputs), (f"returns `{output[0]}`", *output[1:])]
    return _table(("name", "shape", "type", "what it is"), rows)


def _levels(denoiser: NetworkDenoiser) -> str:
    """alpha, sigma and the scalings at some times, where they are numbers."""
    process, preconditioning = denoiser.process, denoiser.preconditioning
    if not isinstance(process, ScalarProcess) or preconditioning.enlarges:
        return ""
    t = process.grid(LEVELS)[:LEVELS]
    one, zero = (torch.full((len(t), 1, 1, 1), value, dtype=torch.float64) for value in (1.0, 0.0))
    x, c_noise = preconditioning.inputs(process, one, t)
    c_skip, c_out = (preconditioning.prediction(process, *pair)[0] for pair in ((one, t, zero), (zero, t, one)))
    columns = (t, *process.alpha_sigma(t), x.flatten(), c_noise, c_skip.flatten(), c_out.flatten())
    rows = [[f"{value:.6g}" for value in row] for row in zip(*(column.tolist() for column in columns), strict=True)]
    text = "u_t = alpha u_0 + sigma eps, and D(u_t, t) = c_skip u_t + c_out F(c_in u_t, c_noise).\n\n"
    return text + _table(("t", "alpha", "sigma", "c_in", "c_noise", "c_skip", "c_out"), rows)


def _recipe(subject: Subject) -> dict[str, Any]:
    model = subject.about.get("recipe", {}).get("model", {})
    objective = model.get("objective") or {}
    return {"weights": subject.about.get("weights"), "objective": objective.get("class_path", "").rpartition(".")[2]}


def _facts(facts: Mapping[str, Any]) -> str:
    rows = [(key, value) for key, value in facts.items() if value not in (None, "")]
    return _table(("", ""), rows) if rows else "Nothing is known of it."


def _evaluation(card: Mapping[str, Any]) -> str:
    result = card.get("result")
    if not result:
        return "These weights were not evaluated; `denoisezoo evaluate` does it."
    metrics = {k: v for k, v in result.items() if isinstance(v, float) and k not in card and k not in JUDGED}
    return _facts(metrics | {key: result.get(key) for key in JUDGED})
