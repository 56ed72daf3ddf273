"""Plans: how much of a network to use at each noise level, and how to find a good one."""

from denoisezoo.plans.extraction import extracted
from denoisezoo.plans.plan import Plan, load_plan
from denoisezoo.plans.presets import find_plan

__all__ = ["Plan", "extracted", "find_plan", "load_plan"]
