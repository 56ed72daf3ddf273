"""`python -m denoisezoo`."""

import sys

from denoisezoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
