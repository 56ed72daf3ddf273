"""The pictures of the documentation, and the tables of its pages, from the library and from `results/`: `make figures`.

`python docs/figures.py NAME...` draws some of them.
"""

from __future__ import annotations

import sys

try:
    import matplotlib  # noqa: F401
except ModuleNotFoundError:
    sys.exit("error: matplotlib is not installed; pip install 'denoisezoo[docs]'")

from drawing import PICTURES, concepts, jumps, latents, results, save, tables  # noqa: F401  (four register pictures)

if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        save(name)
    tables.rewrite()
