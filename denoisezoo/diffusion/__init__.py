"""Processes, preconditioning, objectives, samplers and exact oracles."""
