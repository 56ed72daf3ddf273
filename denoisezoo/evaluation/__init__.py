"""Evaluation of denoisezoo."""
