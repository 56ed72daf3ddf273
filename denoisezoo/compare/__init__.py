"""Denoisers compared on equal terms: budgets, trainings, and the records that a report is made of."""

from denoisezoo.callable_package import make_callable

make_callable(__name__)  # denoisezoo.compare(...) is a function of the public API
