"""The networks of these tests are small, too."""

from tests.contracts.conftest import one_thread

__all__ = ["one_thread"]
