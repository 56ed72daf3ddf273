"""Finding plans: a loss table, the exact front under it, and evolution with measured quality."""

from denoisezoo.callable_package import make_callable

make_callable(__name__)  # denoisezoo.search(...) is a function of the public API
