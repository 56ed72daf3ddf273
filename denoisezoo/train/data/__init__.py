"""Data sets: Lightning data modules of square images, by name in `DATASETS`."""

from denoisezoo.train.data.base import DATASETS, ImageData, Split
from denoisezoo.train.data.embedded import Digits
from denoisezoo.train.data.loader import Batch, EvalLoader, TrainLoader

__all__ = ["DATASETS", "Batch", "Digits", "EvalLoader", "ImageData", "Split", "TrainLoader"]
