"""Data sets of Hugging Face's `datasets`: a folder or a file of this machine, or by their name on the hub."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from denoisezoo.data.folders import FileImages
from denoisezoo.data.image_data import DATASETS
from denoisezoo.data.sources import UNLABELLED, ImageFiles
from denoisezoo.errors import UserError, unknown
from denoisezoo.extras import how_to_install
from denoisezoo.files import local_path

SAVED = ("dataset_dict.json", "state.json")
"""Files of a folder that `save_to_disk` has written: of several splits, of one."""
LABEL_COLUMNS = ("label", "labels")
"""Where classes are looked for when several columns, or none, say that they are classes."""
KNOWN_BY = 1000
"""Images, evenly chosen, by whose bytes a data set is known again."""


class Rows(ImageFiles):
    """The images of one split of a data set, as the bytes of their files.

    Args:
        rows: The split, a `datasets.Dataset`.
        path: Where it is, or its name, as errors call it.
        image: Column of the images; the first one of images unless given.
        label: Column of the classes; the one of classes, or the one called label, unless given.

    Raises:
        UserError: There is no such column, or it holds something else, or there are no rows.
    """

    def __init__(self, rows: Any, path: str, image: str | None, label: str | None) -> None:
        import datasets

        self.path = Path(path)
        if not len(rows):
            raise UserError(f"{path} has no rows", "give another split, `data.split`")
        self.names = [f"{i:08d}" for i in range(len(rows))]
        self.image = self._image_column(rows.features, image)
        self.label = self._label_column(rows.features, label)
        self.labels_in = f"column {self.label}" if self.label else "no column of classes"
        self.images = rows.select_columns([self.image]).cast_column(self.image, datasets.Image(decode=False))
        self.classes = rows.select_columns([self.label]) if self.label else None
        self.feature = rows.features[self.label] if self.label else None

    def find(self) -> list[str]:
        """See `ImageFiles`: the numbers of the rows."""
        return self.names

    def read(self, name: str) -> bytes:
        """See `ImageFiles`: what is in the row, or in the file that it names."""
        image = self.images[int(name)][self.image]
        return Path(image["path"]).read_bytes() if image["bytes"] is None else image["bytes"]

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """As the data set calls its classes; else the texts of the column, sorted, or its numbers."""
        known = getattr(self.feature, "names", None) or self._texts
        return tuple(known) if known else tuple(map(str, range(max((self.labels or {}).values(), default=0) + 1)))

    @cached_property
    def _column(self) -> list[Any]:
        return [] if self.classes is None else list(self.classes[:][self.label])

    @cached_property
    def _texts(self) -> list[str]:
        return sorted({value for value in self._column if isinstance(value, str)})

    def find_labels(self) -> Mapping[str, int]:
        """What the column of classes says.

        Raises:
            UserError: It holds neither whole numbers nor texts.
        """
        number_of = {text: i for i, text in enumerate(self._texts)}
        found = {}
        for name, value in zip(self.names, self._column, strict=False):
            if value is not None and not isinstance(value, int | str):
                what = f"column {self.label} of {self.path} holds {type(value).__name__}, no classes"
                raise UserError(what, "give `data.label`, a column of whole numbers or texts")
            found[name] = UNLABELLED if value is None else number_of[value] if isinstance(value, str) else int(value)
        return found

    @cached_property
    def listing_sha256(self) -> str:
        """Over the number of images, their classes, and some of them."""
        return self._hash(range(0, len(self.names), -(-len(self.names) // KNOWN_BY)))

    def describe(self, name: str) -> str:
        """The size of its file."""
        return str(len(self.read(name)))

    def hash_content(self) -> str:
        """Over all images and their classes."""
        return self._hash(range(len(self.names)))

    def _hash(self, places: range) -> str:
        digest = hashlib.sha256(json.dumps([len(self.names), list(self.class_names), self._column]).encode())
        for place in places:
            digest.update(hashlib.sha256(self.read(self.names[place])).digest())
        return digest.hexdigest()

    def _image_column(self, features: Mapping[str, Any], wanted: str | None) -> str:
        import datasets

        if wanted is None:
            wanted = next((name for name, kind in features.items() if isinstance(kind, datasets.Image)), None)
            if wanted is None:
                found = f"{self.path} has the columns {', '.join(features)}, none of images"
                raise UserError(found, "give `data.image`, a column of bytes of image files")
        _check_column(wanted, features, self.path)
        kind = features[wanted]
        in_bytes = isinstance(kind, Mapping) and set(kind) == {"bytes", "path"}
        if not (isinstance(kind, datasets.Image) or in_bytes or getattr(kind, "dtype", None) == "binary"):
            raise UserError(f"column {wanted} of {self.path} holds no images", "give another `data.image`")
        return wanted

    def _label_column(self, features: Mapping[str, Any], wanted: str | None) -> str | None:
        import datasets

        if wanted is None:
            classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
            called = [name for name in LABEL_COLUMNS if name in features]
            return classes[0] if len(classes) == 1 else next(iter(called), None)
        _check_column(wanted, features, self.path)
        return wanted


@DATASETS.register("huggingface")
class HuggingFace(FileImages):
    """A data set of Hugging Face's `datasets` (`pip install 'denoisezoo[huggingface]'`).

    Args:
        path: A folder that `save_to_disk` has written, a folder of images or of parquet files, one parquet file; or a
            name on the hub, such as ylecun/mnist.
        resolution: Height and width in pixels.
        config: Configuration of the data set, where it has several.
        split: Split to train on.
        test_split: Split of held-out images.
        holdout_every: Without `test_split`, every so-many-th image of each class is held out; 0 holds out none.
        image: Column of the images; the first one of images unless given.
        label: Column of the classes; the one of classes, or the one called label, unless given.
        download: Fetch the data set from the hub if it is not on this machine; it is never fetched unasked.
        resize: Cut the middle square from each image and resize it, instead of refusing any size but `resolution`.
        channels: 3 for RGB (grey images are converted), 1 for grey.
        batch_size: Images per optimiser step, over all devices together.
        horizontal_flip: Mirror each training image with probability one half.
        labels: Give class labels with the batches.
        seed: Seed of the order and of the flips.
        memory_limit_gb: Decoded images larger than this are decoded batch by batch instead.
    """

    dataset = "huggingface"

    def __init__(
        self,
        path: str,
        *,
        resolution: int,
        config: str | None = None,
        split: str = "train",
        test_split: str | None = None,
        holdout_every: int = 20,
        image: str | None = None,
        label: str | None = None,
        download: bool = False,
        resize: bool = False,
        channels: Literal[1, 3] = 3,
        batch_size: int = 128,
        horizontal_flip: bool = True,
        labels: bool = False,
        seed: int = 0,
        memory_limit_gb: float = 4.0,
    ) -> None:
        super().__init__(
            path,
            resolution=resolution,
            holdout_every=holdout_every,
            resize=resize,
            channels=channels,
            batch_size=batch_size,
            horizontal_flip=horizontal_flip,
            labels=labels,
            seed=seed,
            memory_limit_gb=memory_limit_gb,
        )
        self.config, self.split_name, self.test_split = config, split, test_split
        self.image, self.label, self.download = image, label, download

    @property
    def held_out_apart(self) -> bool:
        """See `FileImages`."""
        return self.test_split is not None

    def open(self, part: str) -> ImageFiles:
        """See `FileImages`.

        Raises:
            UserError: `datasets` is not installed, or the data set, its split or a column is not there.
        """
        split = self.split_name if part == "train" or self.test_split is None else self.test_split
        return Rows(open_split(self.path, self.config, split, self.download), self.path, self.image, self.label)


def open_split(path: str, config: str | None, split: str, download: bool) -> Any:
    """One split of a data set, a `datasets.Dataset`; see `HuggingFace`.

    Raises:
        UserError: `datasets` is not installed, or there is no such data set or split.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError("data sets of Hugging Face need datasets", how_to_install("datasets")) from error

    place = local_path(path)
    if not place.exists():
        return _from_hub(path, config, split, download)
    try:
        if any((place / name).is_file() for name in SAVED):
            found = datasets.load_from_disk(str(place))
            if isinstance(found, datasets.DatasetDict):
                if split not in found:
                    raise unknown(f"split of {path}", split, found)
                return found[split]
            if split != "train":
                raise UserError(f"{path} has no splits, and {split} is asked for", "leave out `data.split`")
            return found
        with _unconnected():
            if place.is_file():
                return datasets.load_dataset("parquet", data_files={split: str(place)}, split=split)
            return datasets.load_dataset(str(place), name=config, split=split)
    except Exception as error:  # datasets raises nearly anything on files that are not its own
        if isinstance(error, UserError):
            raise
        cure = "give a folder of save_to_disk, of images or of parquet files, and one of its splits as `data.split`"
        raise UserError(f"{path} cannot be read as a data set: {_reason(error)}", cure) from error


def _from_hub(path: str, config: str | None, split: str, download: bool) -> Any:
    import datasets

    if Path(path).is_absolute() or path.startswith(".") or path.count("/") > 1:
        raise UserError(f"there is no {path}", "give the path of a data set, or its name on the hub")
    try:
        with contextlib.nullcontext() if download else _unconnected():
            return datasets.load_dataset(path, name=config, split=split)
    except Exception as error:
        if download:
            raise UserError(f"{path} cannot be fetched: {_reason(error)}", "try again, or give a path") from error
        cure = "pass `data.download=true` to fetch it from Hugging Face, or give the path of a data set"
        raise UserError(f"data set {path} with the split {split} is not on this machine", cure) from error


@contextlib.contextmanager
def _unconnected() -> Iterator[None]:
    """Within it, `datasets` fetches nothing: what it asks for is read from where it says, or from its cache."""
    import datasets.config
    import huggingface_hub.constants

    switches: list[Any] = [datasets.config, huggingface_hub.constants]
    before = [switch.HF_HUB_OFFLINE for switch in switches]
    for switch in switches:
        switch.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.HF_HUB_OFFLINE = value


def _check_column(name: str, features: Mapping[str, Any], path: Path) -> None:
    if name not in features:
        raise unknown(f"column of {path}", name, features)


def _reason(error: Exception) -> str:
    """The first line of an error, or of the one that led to it, which says more."""
    text = str(error.__cause__ or error).strip() or type(error).__name__
    return f"{text.splitlines()[0]:.200}"
