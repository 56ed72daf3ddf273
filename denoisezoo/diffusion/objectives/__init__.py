"""Objectives: what training makes small, found by name in `OBJECTIVES`; one file for each kind."""

from denoisezoo.diffusion.objectives.objective import OBJECTIVES, Case, Loss, Objective, Step
from denoisezoo.diffusion.objectives.times import Times
from denoisezoo.registry import import_all

__all__ = ["OBJECTIVES", "Case", "Loss", "Objective", "Step", "Times"]

import_all(__name__, __path__)
