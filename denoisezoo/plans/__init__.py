"""Plans: how much of a network to use at each noise level."""

from denoisezoo.plans.plan import Plan, load_plan

__all__ = ["Plan", "load_plan"]
