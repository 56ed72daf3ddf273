"""Checkpoints of other code, a file for each format, found by discovery: `FORMAT:PATH` is a run wherever one is wanted,
and `export` writes one for other code.

A file of others is data. What reads it runs nothing of it: safetensors, torch's `weights_only`, or the reader of
pickles of this package, which knows a few names and refuses all others.
"""

from denoisezoo.interop.foreign import FORMATS, Foreign, Format, find_address
from denoisezoo.interop.key_map import KeyMap
from denoisezoo.interop.writer import WRITERS, Writer
from denoisezoo.registry import import_all

__all__ = ["FORMATS", "WRITERS", "Foreign", "Format", "KeyMap", "Writer", "find_address"]

import_all(__name__, __path__)
