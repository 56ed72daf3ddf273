"""What the README shows is so."""

import re
from pathlib import Path

import pytest

from denoisezoo.archs import get_variant, list_denoisers

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "docs" / "tutorials").glob("*.py"))


def test_the_page_of_the_zoo_has_every_family():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|", (ROOT / "docs" / "zoo.md").read_text(), re.M)
    papers = {get_variant(name).family.name: get_variant(name).family.paper for name in reversed(list_denoisers())}
    assert dict(rows) == papers


GENERATED = re.compile(r"(\.\./)?(gallery|papers|reference)/\w+\.md")
"""Pages that are made of the registry, and exist in the site alone; `make docs` checks links to them."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_its_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert target.startswith("http") or GENERATED.fullmatch(target) or (page.parent / target).exists(), target


def test_its_make_targets_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake (\w+)", README + (ROOT / "CONTRIBUTING.md").read_text())) <= targets
