"""Interop of denoisezoo."""
