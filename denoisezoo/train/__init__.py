"""The trainer: one LightningModule, its average, guard, callbacks and checkpoints."""
