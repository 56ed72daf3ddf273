"""Data sets: Lightning data modules of square images, by name in `DATASETS`."""

from denoisezoo.train.data.base import DATASETS, ImageData, Split
from denoisezoo.train.data.channel import Channel
from denoisezoo.train.data.cifar import Cifar10
from denoisezoo.train.data.embedded import Digits, Photos
from denoisezoo.train.data.folders import ImageFolder, ImageZip
from denoisezoo.train.data.loader import Batch, EvalLoader, TrainLoader
from denoisezoo.train.data.paired import Paired
from denoisezoo.train.data.tasks import RENDERINGS, TASKS, Task

__all__ = [
    "DATASETS",
    "RENDERINGS",
    "TASKS",
    "Batch",
    "Channel",
    "Cifar10",
    "Digits",
    "EvalLoader",
    "ImageData",
    "ImageFolder",
    "ImageZip",
    "Paired",
    "Photos",
    "Split",
    "Task",
    "TrainLoader",
]
