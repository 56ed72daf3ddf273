"""Plans of denoisezoo."""
