"""Trained runs: loaded, sampled, evaluated, priced and published."""
