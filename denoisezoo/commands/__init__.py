"""Commands of denoisezoo."""
