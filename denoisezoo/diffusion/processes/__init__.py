"""Processes: how an image is destroyed, found by name in `PROCESSES`; one file for each kind."""

from denoisezoo.diffusion.processes.process import PROCESSES, DiagonalProcess, Process, ScalarProcess
from denoisezoo.registry import import_all

__all__ = ["PROCESSES", "DiagonalProcess", "Process", "ScalarProcess"]

import_all(__name__, __path__)
