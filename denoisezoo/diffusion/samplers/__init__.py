"""Samplers, one file each, found by name."""
