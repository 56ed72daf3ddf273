"""Links of pages are to files of the repository, where they are read as text, too; the site has pages of some."""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page with the links of the site; mkdocs calls it."""
    markdown = re.sub(r"(\]\((?:[^)\s]*tutorials/)?\w+)\.py(?=[)#])", r"\1.md", markdown)
    return re.sub(r"(\]\((?:\.\./)*)\.\./CONTRIBUTING\.md", r"\1contributing.md", markdown)
