"""Tutorials, percent scripts in the tree, as notebooks with their outputs, and as pages.

`python docs/notebook.py SCRIPT` runs one and prints the notebook as JSON.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat.v4 import new_output

SHOWN = {"image/png": "_repr_png_", "text/html": "_repr_html_"}
"""Kind of output -> the method by which what ends a cell gives it."""


def execute(script: Path, values: dict[str, Any]) -> nbformat.NotebookNode:
    """Run the cells of a script in order, as Jupyter does; what is written to stderr, progress and logs, is left out.

    Args:
        script: The percent script.
        values: Where its names are, those that it sets included.
    """
    notebook = jupytext.read(script)
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        *statements, last = ast.parse(cell.source).body
        ends = isinstance(last, ast.Expr)
        body = ast.Module([*statements, *([] if ends else [last])], type_ignores=[])
        place, said = f"{script.name}, cell {number}", io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
            exec(compile(body, place, "exec"), values)
            value = eval(compile(ast.Expression(last.value), place, "eval"), values) if ends else None
        cell.execution_count = number
        if said.getvalue():
            cell.outputs.append(new_output("stream", name="stdout", text=said.getvalue()))
        if value is not None:
            cell.outputs.append(new_output("execute_result", shown(value), execution_count=number))
    return notebook


def shown(value: Any) -> dict[str, str]:
    """What a notebook shows of a value, by kind."""
    found = {kind: getattr(value, method)() for kind, method in SHOWN.items() if hasattr(value, method)}
    return {kind: base64.b64encode(v).decode() if isinstance(v, bytes) else v for kind, v in found.items()} | {
        "text/plain": repr(value)
    }


def as_page(notebook: nbformat.NotebookNode, name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by the names under which the page shows them."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                picture = f"{name}_{len(pictures) + 1}.png"
                pictures[picture] = base64.b64decode(data["image/png"])
                parts.append(f"![What the cell shows]({picture})" + "{ .output }")
            elif "text/html" in data:
                parts.append(f'<div class="output">{data["text/html"]}</div>')
            else:
                parts.append(f'<div class="output" markdown>\n\n```text\n{data["text/plain"].rstrip()}\n```\n\n</div>')
    return "\n\n".join(parts) + "\n", pictures


if __name__ == "__main__":
    found = execute(Path(sys.argv[1]), {"__name__": "__main__"})
    print(nbformat.writes(found))
