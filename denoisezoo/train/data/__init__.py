"""Data sets: Lightning data modules of square images, by name in `DATASETS`."""

from denoisezoo.train.data.base import DATASETS, ImageData, Split
from denoisezoo.train.data.cifar import Cifar10
from denoisezoo.train.data.embedded import Digits, Photos
from denoisezoo.train.data.folders import ImageFolder, ImageZip
from denoisezoo.train.data.loader import Batch, EvalLoader, TrainLoader

__all__ = [
    "DATASETS",
    "Batch",
    "Cifar10",
    "Digits",
    "EvalLoader",
    "ImageData",
    "ImageFolder",
    "ImageZip",
    "Photos",
    "Split",
    "TrainLoader",
]
