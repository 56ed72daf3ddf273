"""Data sets: Lightning data modules of square images, by name in `DATASETS`."""

from denoisezoo.data.augmented import Augmented
from denoisezoo.data.channel import Channel
from denoisezoo.data.cifar import Cifar10
from denoisezoo.data.dense_maps import BlurredMap, EdgeMap, StrokeMask
from denoisezoo.data.embedded import Digits, Photos
from denoisezoo.data.encoded import Encoded
from denoisezoo.data.folders import ImageFolder, ImageZip
from denoisezoo.data.huggingface import HuggingFace
from denoisezoo.data.image_data import DATASETS, ImageData, Split
from denoisezoo.data.latents import Latents
from denoisezoo.data.loader import Batch, EvalLoader, TrainLoader
from denoisezoo.data.npz import ImageNpz
from denoisezoo.data.paired import Paired
from denoisezoo.data.source_images import SourceImages
from denoisezoo.data.store import Source
from denoisezoo.data.tasks import RENDERINGS, TASKS, Task
from denoisezoo.data.torchvision_images import Torchvision
from denoisezoo.data.webdataset import WebDataset
from denoisezoo.registry import import_all

__all__ = [
    "DATASETS",
    "RENDERINGS",
    "TASKS",
    "Augmented",
    "Batch",
    "BlurredMap",
    "Channel",
    "Cifar10",
    "Digits",
    "EdgeMap",
    "Encoded",
    "EvalLoader",
    "HuggingFace",
    "ImageData",
    "ImageFolder",
    "ImageNpz",
    "ImageZip",
    "Latents",
    "Paired",
    "Photos",
    "Source",
    "SourceImages",
    "Split",
    "StrokeMask",
    "Task",
    "Torchvision",
    "TrainLoader",
    "WebDataset",
]

import_all(__name__, __path__)
