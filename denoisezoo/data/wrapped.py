"""Data sets around another one, whose images they are."""

from __future__ import annotations

from denoisezoo.data.image_data import ImageData, Split


class Wrapped(ImageData):
    """The images of another data set, which a subclass gives to training in another form.

    What is evaluated, and what tells the data from others, is the other data set's.

    Args:
        data: Where the images come from; batch size, flips, labels and seed are its own.
    """

    def __init__(self, data: ImageData) -> None:
        super().__init__(
            resolution=data.resolution,
            batch_size=data.batch_size,
            horizontal_flip=data.horizontal_flip,
            labels=data.with_labels,
            seed=data.seed,
            memory_limit_gb=data.memory_limit_gb,
        )
        self.data, self.channels = data, data.channels

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the data."""
        return self.data.class_names

    @property
    def title(self) -> str:
        """That of the data."""
        return self.data.title

    def content_hash(self) -> str:
        """That of the data."""
        return self.data.content_hash()

    def fingerprint(self) -> str:
        """That of the data."""
        return self.data.fingerprint()

    def prepare_data(self) -> None:
        """Fetch the data, where they fetch themselves."""
        self.data.prepare_data()

    def load(self) -> dict[str, Split]:
        """Those of the data."""
        return {name: self.data.split(name) for name in ("train", "test")}
