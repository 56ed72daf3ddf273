"""Train of denoisezoo."""
