"""Trained runs: from a run folder or a checkpoint to a denoiser that can be sampled."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from denoisezoo.archs import FORMAT
from denoisezoo.archs.variants import find_variant
from denoisezoo.data import ImageData
from denoisezoo.diffusion import Codec, Denoiser, NetworkDenoiser
from denoisezoo.diffusion.capabilities import advance
from denoisezoo.errors import UserError
from denoisezoo.evaluation.conditions import Conditions, from_files, held_out
from denoisezoo.evaluation.reconstruction import DRAWS
from denoisezoo.files import local_path, no_run
from denoisezoo.interop import Format, find_address
from denoisezoo.plugins import trusting
from denoisezoo.runs.changed import with_codec
from denoisezoo.runs.imported_codec import codec_for
from denoisezoo.runs.published import FACTS, IMPORTED, SUFFIX, read_published
from denoisezoo.tables import Column, Table, Tabular
from denoisezoo.train.checkpoint import (
    FOLDER,
    LAST,
    check_format,
    data_known,
    holds_tensors,
    newest_checkpoint,
    read_checkpoint,
)
from denoisezoo.train.described import BY_HAND, title_of
from denoisezoo.train.places import located
from denoisezoo.train.recipe_files import IMPORTS
from denoisezoo.train.resumable import read_summary

NAME = re.compile(r"\w[\w.+-]{0,99}")
"""What a run may be called."""


@dataclass(frozen=True)
class Run(Tabular):
    """A denoiser with its history, so far as there is one; prints as a table of what its training was.

    Attributes:
        name: Registry name of its backbone; the name of its class where it is no network of the zoo.
        family: Family of the backbone.
        denoiser: With the averaged (or raw) weights, loaded on the CPU in evaluation mode; or the one that was given.
        config: The resolved recipe; empty where there is none.
        folder: Its run folder; the working directory where there is none.
        checkpoint: The file that the weights come from; None where they come from no file.
        weights: "ema" or "raw"; "given" where they come from no file.
        facts: images_seen, train_steps, train_seconds, train_macs, perceptual (None where unknown), seed; sigma_rel of
            an average that was made after training.
        known: What it remembers of its data; empty where it was trained by an earlier version.
        trust: Packages whose code it may run, now and when its data are built.
        replaced: Data to use instead of those of the recipe; see `on`.
    """

    name: str
    family: str
    denoiser: NetworkDenoiser = field(repr=False)
    config: dict[str, Any] = field(repr=False)
    folder: Path
    checkpoint: Path | None
    weights: str
    facts: dict[str, Any]
    known: dict[str, Any] = field(default_factory=dict, repr=False)
    trust: Sequence[str] = ()
    replaced: ImageData | None = field(default=None, repr=False)

    @classmethod
    def of(cls, denoiser: Denoiser, data: ImageData | None = None, name: str | None = None) -> Run:
        """A denoiser that no recipe has made, such as one around a network from elsewhere.

        Args:
            denoiser: A network under a process.
            data: What it is judged by; without them it can be sampled and priced.
            name: What results call it; the class of its network unless given.

        Raises:
            UserError: It has no network.
        """
        if not isinstance(denoiser, NetworkDenoiser):
            cure = "derive it from denoisezoo.Backbone, and wrap it, denoisezoo.create_denoiser(network, process)"
            raise UserError(f"{type(denoiser).__name__} has no network to evaluate and price", cure)
        network = type(denoiser.backbone).__name__
        return cls(name or network, network, denoiser, {}, Path(), None, "given", {}, replaced=data)

    def on(self, data: ImageData) -> Run:
        """The run with other data than its recipe's, to be evaluated or searched on."""
        return replace(self, replaced=data)

    def sampling(self, sampler: str | None = None, steps: int | None = None) -> dict[str, Any]:
        """Sampler and steps as far as they are given or, without a sampler, customary for these weights.

        Args:
            sampler: The sampler that is wanted, if one is.
            steps: Its steps, if any are.
        """
        customary = self.config.get("sampling", {}) if sampler is None else {"sampler": sampler}
        return customary if steps is None else customary | {"steps": steps}

    @property
    def weights_text(self) -> str:
        """What a card says of its weights: those of `denoisezoo ema` have a width."""
        width = self.facts.get("sigma_rel")
        return self.weights if width is None else f"{self.weights} of sigma_rel {width:g}"

    @property
    def label_dropout(self) -> float | None:
        """Share of the images that it was trained on without their label; None where that is not known."""
        return float(self.config["model"].get("label_dropout", 0.0)) if self.config else None

    def summary(self) -> Table:
        """What is known of its training."""
        facts = {"denoiser": self.name, "family": self.family, "weights": self.weights, "file": self.checkpoint}
        facts |= {} if (codec := self.denoiser.codec).identity else {"codec": codec.title}
        known = [{"fact": key, "value": value} for key, value in (facts | self.facts).items() if value is not None]
        return Table(known, [Column("run", "fact"), Column("", "value")])

    def rows(self) -> list[dict[str, Any]]:
        """One row."""
        file = None if self.checkpoint is None else str(self.checkpoint)
        return [{"name": self.name, "family": self.family, "run": file, "weights": self.weights, **self.facts}]

    def __deepcopy__(self, memo: dict[int, Any]) -> Run:
        """Itself: a loaded denoiser leads to its run, and a copy of it must not copy the data."""
        return self

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images, decoded."""
        return self.denoiser.image_shape

    def data(self) -> Any:
        """The data module that the run was trained on, not yet read; the same one each time.

        Once read, it warns where the data are not the same.

        Raises:
            UserError: There are none.
        """
        return self._data if self.replaced is None else self.replaced

    @cached_property
    def _data(self) -> Any:
        from denoisezoo.runs.build import build_data

        if not self.config.get("data"):
            raise UserError(f"{self.name} has no recipe that names its data", "give data, e.g. data=Digits()")
        with trusting(self.trust):
            data = build_data(located(self.config["data"], self.folder, self.known.get("origin")))
        data.trained_on = self.known
        return data

    def conditions(self, num: int, draws: int = DRAWS, path: str | None = None) -> Conditions | None:
        """What `num` samples are given: held-out conditions of the data, or those at `path`; None without a task.

        Raises:
            UserError: Conditions for a network that takes none, or such that it cannot take.
        """
        shape = self.denoiser.cond_shape
        if shape is None:
            if path is not None:
                raise UserError(f"{self.name} takes no condition", "leave `condition` out")
            return None
        return held_out(self.data(), num, draws) if path is None else from_files(path, shape, draws)


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The newest whole checkpoint of a run folder, or what `import` has written there, or the file itself.

    Raises:
        UserError: It is a URL, there is nothing there, or all checkpoints of the folder are damaged.
    """
    path = local_path(path)
    if path.is_file():
        return path
    if (newest := newest_checkpoint(path)) is not None:
        return newest
    if (path / IMPORTED).is_file():
        return path / IMPORTED
    if path.is_dir():
        cure = f"give a folder with {FOLDER}/{LAST} in it, or FORMAT:{path} for a checkpoint of other code"
        raise UserError(f"{path} holds no run", cure)
    raise no_run(path)


def load_run(
    path: str | os.PathLike[str],
    weights: str = "ema",
    trust: Collection[str] = (),
    into: NetworkDenoiser | None = None,
    codec: str | Codec | None = None,
) -> Run:
    """Load a run.

    Args:
        path: Run folder, checkpoint, a safetensors file that `export` wrote, or FORMAT:PATH of a foreign one.
        weights: "ema" for the averaged weights, "raw" for those of the optimiser; a safetensors file has one of them.
        trust: Packages, such as "their", whose modules the file may name and so run; more than denoisezoo and what
            is trusted already (`denoisezoo.plugins.trusting`).
        into: The denoiser that takes the weights, instead of one that is built as the file says.
        codec: Of a foreign network of latents: its autoencoder, e.g. "autoencoder_kl:path=FOLDER"; of a run on latents:
            another one with the same encoder, see `with_codec`.

    Raises:
        UserError: There is no run, or its file is damaged, of another network, or lacks these weights, or it names
            code of a package that is not trusted, of which nothing has been imported.
    """
    with trusting(trust):
        address = find_address(path)
        if address is not None:
            run = _load_foreign(*address, weights, codec)
        else:
            run = _load(find_checkpoint(path), weights, into)
            run = run if codec is None else with_codec(run, codec)
        run = replace(run, trust=tuple(trust))
    run.denoiser.run = run
    return run


def _load(file: Path, weights: str, into: NetworkDenoiser | None) -> Run:
    if file.suffix == SUFFIX:
        return _load_published(file, weights, into)
    content = read_checkpoint(file)
    state: Any = content.get("state_dict" if weights == "ema" else "current_model_state")
    if not holds_tensors(state):
        raise UserError(f"{file} holds no {weights} weights", "take another checkpoint of the run, or `weights=ema`")
    folder = file.parent.parent if file.parent.name == FOLDER else file.parent
    run = _make_run(file, folder, content["denoisezoo"], state, weights, _facts(content, folder), into)
    return replace(run, known=data_known(content))


def _load_published(file: Path, weights: str, into: NetworkDenoiser | None) -> Run:
    header, state = read_published(file)
    if header["weights"] != weights:
        raise UserError(f"{file} holds the {header['weights']} weights alone", f"give `weights={header['weights']}`")
    card = header["card"]
    facts = {key: card.get(key) for key in FACTS} | {"seed": card.get("training_seed")}
    run = _make_run(file, file.parent, header, state, weights, facts, into)
    name = card.get("name")  # files are called by it, so that nobody's header may say where they go
    name = name if isinstance(name, str) and NAME.fullmatch(name) else run.name
    return replace(run, name=name, known=data_known({"denoisezoo": header}))


def _load_foreign(format: Format, path: Path, weights: str, codec: str | Codec | None) -> Run:
    found = format.load(path, weights)
    recipe, state = found.recipe(format), {f"denoiser.backbone.{name}": x for name, x in found.weights.items()}
    if codec is not None:
        recipe["model"]["codec"], tensors = codec_for(found, codec)
        state |= {f"denoiser.codec.{name}": x for name, x in tensors.items()}
    name = re.sub(r"[^\w.+-]", "_", f"{format.name}_{path.stem or format.name}")
    about = {"recipe": recipe, "format": FORMAT}
    run = _make_run(found.file, Path("runs") / name, about, state, weights, dict.fromkeys([*FACTS, "seed"]), None)
    known = find_variant(run.denoiser.backbone)
    return run if known and not known[1] else replace(run, name=name)  # one of other sizes is not that of the zoo


def _make_run(
    file: Path,
    folder: Path,
    about: dict[str, Any],
    state: dict[str, Any],
    weights: str,
    facts: dict[str, Any],
    into: NetworkDenoiser | None,
) -> Run:
    from denoisezoo.runs.build import denoiser_of, import_modules

    recipe, denoiser = about["recipe"], into
    if denoiser is not None:
        name, family = title_of(denoiser)
    elif what := recipe["model"].get(BY_HAND):
        what = f"the denoiser in {file} was built by hand, of {what:.100} and no file can make that again"
        raise UserError(what, "build it again and give it, denoisezoo.load(path, into=denoiser)")
    else:
        import_modules(recipe.get(IMPORTS))
        denoiser, name, family = denoiser_of(recipe["model"])
    check_format(file, about.get("format"), name, denoiser.backbone.config)
    try:
        # What training alone needs, such as an adversary, is left in the file.
        own = {k.removeprefix("denoiser."): value for k, value in state.items() if k.startswith("denoiser.")}
        denoiser.load_state_dict(own)
    except RuntimeError as error:
        raise UserError(
            f"the weights in {file} do not fit {name}: {str(error).splitlines()[0]}",
            "use the version of denoisezoo that wrote it",
        ) from error
    advance(denoiser.process, facts.get("train_steps") or 0)
    return Run(
        name=name,
        family=family,
        denoiser=denoiser.eval(),
        config=recipe,
        folder=folder,
        checkpoint=file,
        weights=weights,
        facts=facts,
    )


def _facts(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What training cost: from the checkpoint, and the multiply-adds from run.json if it is of the same step."""
    kept = ("images_seen", "train_seconds", "seed", "perceptual", "teacher_sha256")
    facts = {key: content["denoisezoo"].get(key) for key in kept}
    facts |= {"train_steps": content.get("global_step"), "train_macs": None}
    if (width := content["denoisezoo"].get("sigma_rel")) is not None:
        facts["sigma_rel"] = width
    written = read_summary(folder)
    if written.get("train_steps") == facts["train_steps"]:
        facts["train_macs"] = written.get("train_macs")
    return facts


def to_device(run: Run, device: str, dtype: torch.dtype = torch.float32) -> NetworkDenoiser:
    """The run's denoiser on a device, in evaluation mode, its network in a dtype.

    Raises:
        UserError: The device is absent.
    """
    try:
        run.denoiser.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used", "give cpu, or cuda where there is a GPU") from error
    run.denoiser.backbone.to(dtype)
    return run.denoiser.eval()
