"""Configs of denoisezoo."""
