"""Report of denoisezoo."""
