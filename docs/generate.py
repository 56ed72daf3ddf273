"""The pages that the package knows itself: gallery, papers, commands, recipes and the Python API.

mkdocs runs it while it builds; nothing of it lies in the tree.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import importlib
import inspect
import io
import itertools
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path

import mkdocs_gen_files
import nbformat
import torch
import yaml
from mkdocs.exceptions import PluginError

import denoisezoo as dz
from denoisezoo.archs import get_variant, list_denoisers
from denoisezoo.archs.info import entry
from denoisezoo.cli import COMMANDS, DESCRIPTION, OPTIONS, main
from denoisezoo.compare.claims import claims
from denoisezoo.tables import human
from denoisezoo.train.recipe_files import EXTENDS
from denoisezoo.train.recipe_names import find_recipe, list_recipes

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
from notebook import as_page  # noqa: E402 (beside this file)


def page(path: str, text: str) -> None:
    """Put a page among the others."""
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text)


def gallery() -> None:
    """A card for each family, and a table of all networks that filters and sorts."""
    families = defaultdict(list)
    for name in list_denoisers():
        families[get_variant(name).family.name].append(name)
    cards, rows = [], []
    for family, names in sorted(families.items()):
        known = get_variant(names[0]).family
        page(f"gallery/{family}.md", family_page(family, names))
        shown = ", ".join(f"`{name}`" for name in names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        cards.append(
            f"<div markdown>\n\n### [{family}]({family}.md)\n\n{known.title}. {known.authors} {known.year}, "
            f"[arXiv {known.arxiv}](https://arxiv.org/abs/{known.arxiv})\n\n{shown}\n\n</div>"
        )
        rows.extend(entry(name) for name in names)
    cells = "".join(
        f'<tr><td><a href="{row["family"]}.html">{row["name"]}</a></td><td>{row["family"]}</td><td>{row["input"]}</td>'
        f'<td data-v="{row["params"]}">{human(row["params"])}</td><td data-v="{row["macs"]}">{human(row["macs"])}</td>'
        f"<td>{len(row['efforts'])}</td></tr>"
        for row in rows
    )
    heads = "".join(
        f"<th><button>{title}</button></th>" for title in ("name", "family", "input", "params", "MACs", "efforts")
    )
    text = [
        "# Gallery",
        f"{len(rows)} networks of {len(families)} families. Parameters and multiply-adds (a call at batch 1, full "
        "effort) are counted, not typed.",
        f'<div class="family" markdown>\n\n{chr(10).join(cards)}\n\n</div>',
        "## All of them",
        '<div class="filter"><input id="filter" type="search" placeholder="name, family or size, such as 32x32" '
        'aria-label="Filter"></div>',
        f'<table id="zoo"><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table>',
        f"<script>{(ROOT / 'docs' / 'gallery.js').read_text()}</script>",
        "Next: [what an image costs](../cost.md), or [add your own](../contributing.md).",
    ]
    page("gallery/index.md", "\n\n".join(text))


def family_page(family: str, names: list[str]) -> str:
    """What a family is, its networks with their costs, its paper, and how to use it."""
    known = get_variant(names[0]).family
    head, *rows = ["| name | input | efforts | params | MACs | ms, two cores |", "|---|---|---|---|---|---|"]
    measured = latencies()
    for name in names:
        row = entry(name)
        efforts = " ".join(f"{effort:g}" for effort in row["efforts"])
        costs = (", ".join(human(cost[key]) for cost in row["costs"]) for key in ("params", "macs"))
        times = ", ".join(measured.get((name, float(effort)), "-") for effort in row["efforts"])
        rows.append(f"| `{name}` | {row['input']} | {efforts} | {' | '.join(costs)} | {times.strip('-, ')} |")
    key = f"{known.authors.split(',')[0].split()[-1].lower()}{known.year}"
    bibtex = (
        f"@misc{{{key},\n  title = {{{known.title}}},\n  author = {{{known.authors}}},\n  year = {{{known.year}}},\n"
        f"  eprint = {{{known.arxiv}}},\n  archivePrefix = {{arXiv}}\n}}"
    )
    example = next((name for name in names if name.endswith("_digits")), names[0])
    return "\n\n".join(
        [
            f"# {family}",
            known.doc,
            "\n".join([head, *rows]),
            "Of a call at batch 1. Times are those of `results/costs_cpu.csv`; `profile` measures yours.",
            "## Data flow",
            f"```text\n{data_flow(example)}\n```",
            "## Use",
            f'```python\nimport denoisezoo as dz\n\ndenoiser = dz.create_denoiser("{example}", process="edm")\n```',
            f"    denoisezoo profile {example} --counts-only",
            "## Cite",
            f"```bibtex\n{bibtex}\n```",
            "Next: [the gallery](index.md), or [compare it with others](../tutorials/compare_three.md).",
        ]
    )


@functools.cache
def latencies() -> dict[tuple[str, float], str]:
    """Milliseconds of a call on two CPU cores by name and effort, where they were measured."""
    with (ROOT / "results" / "costs_cpu.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    measured = {(row["name"], float(row["effort"])): float(row["latency_ms.median"]) for row in rows}
    return {key: f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}" for key, ms in measured.items()}


def data_flow(name: str, depth: int = 2) -> str:
    """The module tree of a network to a depth, with parameters; equal neighbours are one line."""
    with torch.device("meta"):
        network = get_variant(name).build()
    lines = []

    def walk(module: torch.nn.Module, prefix: str, level: int) -> None:
        children = [(key, child, sum(p.numel() for p in child.parameters())) for key, child in module.named_children()]
        for (kind, params), group in itertools.groupby(children, key=lambda item: (type(item[1]).__name__, item[2])):
            same = list(group)
            keys = same[0][0] if len(same) == 1 else f"{same[0][0]} .. {same[-1][0]}"
            lines.append(f"{prefix}{keys}: {kind}" + (f", {human(params)} parameters each" if params else ""))
            if level < depth:
                walk(same[0][1], prefix + "    ", level + 1)

    walk(network, "", 1)
    return "\n".join([f"{name}: {type(network).__name__}", *lines])


def papers() -> None:
    """What each paper claims, from the ledger."""
    text = [
        "# What the papers claim, and what was measured",
        "Every figure is computed from rows of `results/`; `denoisezoo claims --check` does it again.",
    ]
    for paper, group in itertools.groupby(claims().claims, key=lambda claim: claim.paper):
        found = list(group)
        counted = Counter(claim.verdict for claim in found)
        text += [f"## {paper}", ", ".join(f"{n} {verdict}" for verdict, n in counted.items()) + "."]
        for claim in found:
            badge = f'<span class="verdict {claim.verdict.replace(" ", "-")}">{claim.verdict}</span>'
            text += [f"**{escape(claim.claim)}** ({escape(claim.source)}) {badge}", escape(claim.reason)]
            facts = [
                f"*{title}:* {escape(value)}"
                for title, value in (("Conditions", claim.conditions), ("Counting", claim.counting))
                if value
            ]
            text += [" ".join(facts)] if facts else []
            text += [f"    {claim.command}"] if claim.command else []
    text.append("Next: the [results](../results/digits.md), or [the gallery](../gallery/index.md).")
    page("papers/index.md", "\n\n".join(text))


def commands() -> None:
    """The help of every command."""
    os.environ["COLUMNS"] = "100"
    text = [
        "# Commands",
        f"{DESCRIPTION} Options of the program itself: " + ", ".join(f"`{key}`" for key in OPTIONS) + ".",
    ]
    for name, (_, line) in COMMANDS.items():
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            main([name, "--help"])
        text += [f"## {name}", f"{line[0].upper()}{line[1:]}.", f"```text\n{said.getvalue().rstrip()}\n```"]
    text.append("Next: [recipes](recipes.md), which most of them take, or [how to](../how_to/index.md), by task.")
    page("reference/commands.md", "\n\n".join(text))


def recipes() -> None:
    """Every recipe, what it extends, and what its head says."""
    text = [
        "# Recipes",
        "A recipe is named by its path: `denoisezoo train --config digits/ddpm`. What it `extends` comes first.",
    ]
    for folder, group in itertools.groupby(list_recipes(), key=lambda name: name.partition("/")[0]):
        text += [f"## {folder}", "| recipe | extends | what it is |\n|---|---|---|"]
        rows = []
        for name in group:
            source = find_recipe(name).read_text(encoding="utf-8")
            comments = itertools.takewhile(lambda line: line.startswith("#"), source.splitlines())
            head = " ".join(line.lstrip("# ") for line in comments).replace("|", "\\|")
            parent = yaml.safe_load(source).get(EXTENDS)
            rows.append(f"| `{name}` | {f'`{parent}`' if parent else ''} | {head} |")
        text[-1] += "\n" + "\n".join(rows)
    text.append("Next: [data and references](../data.md), whose options a recipe has, or [commands](commands.md).")
    page("reference/recipes.md", "\n\n".join(text))


def python() -> None:
    """The public names, by mkdocstrings."""
    text = ["# Python", (dz.__doc__ or "").partition("\n\n")[2]]
    names = [name for name in dz.__all__ if not name.startswith("_") and not inspect.ismodule(getattr(dz, name))]
    for name in sorted(names, key=str.lower):
        thing = getattr(dz, name)
        module = importlib.import_module(thing.__module__)
        assert hasattr(module, thing.__name__)
        text.append(f"::: {thing.__module__}.{thing.__name__}")
    text.append("Next: [your own parts as a package](../how_to/own_parts.md), or [commands](commands.md).")
    page("reference/python.md", "\n\n".join(text))


def tutorials() -> None:
    """Percent scripts, run, as pages with what each cell prints and shows, and as notebooks."""
    scripts = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
    with ThreadPoolExecutor(max_workers=2) as pool:  # each in a process of its own, on one core
        notebooks = list(pool.map(run_tutorial, scripts))
    for script, text in zip(scripts, notebooks, strict=True):
        page(f"tutorials/{script.stem}.ipynb", text)
        shown, pictures = as_page(nbformat.reads(text, as_version=4), script.stem)
        title, rest = shown.split("\n", 1)
        link = (
            f"*Outputs are those of the machine that built this page. [The same as a notebook]({script.stem}.ipynb).*"
        )
        page(f"tutorials/{script.stem}.md", f"{title}\n\n{link}\n{rest}")
        for name, picture in pictures.items():
            with mkdocs_gen_files.open(f"tutorials/{name}", "wb") as file:
                file.write(picture)


def run_tutorial(script: Path) -> str:
    """Its notebook as JSON.

    Raises:
        PluginError: A cell fails.
    """
    words = [sys.executable, str(ROOT / "docs" / "notebook.py"), str(script)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            words, cwd=folder, env=os.environ | {"TMPDIR": folder, "COLUMNS": "120"}, capture_output=True, text=True
        )
    if done.returncode:
        raise PluginError(f"{script.name} fails:\n{done.stderr}")
    return done.stdout


def contributing() -> None:
    """CONTRIBUTING.md as a page of the site."""
    page("contributing.md", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("](docs/", "]("))


for build in (gallery, papers, commands, recipes, python, tutorials, contributing):
    build()
