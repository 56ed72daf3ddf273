"""Objectives: what training makes small, found by name in `OBJECTIVES`; one file for each kind."""

from denoisezoo.diffusion.objectives.regression import OBJECTIVES, Loss, Objective, Times
from denoisezoo.registry import import_all

__all__ = ["OBJECTIVES", "Loss", "Objective", "Times"]

import_all(__name__, __path__)
