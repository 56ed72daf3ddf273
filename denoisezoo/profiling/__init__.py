"""Profiling of denoisezoo."""
