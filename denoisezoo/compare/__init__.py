"""Denoisers compared on equal terms: budgets, trainings, and the records that a report is made of."""
