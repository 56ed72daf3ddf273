"""A page that shows where along the noise levels a sampler run spends its multiply-adds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from denoisezoo.files import write_text
from denoisezoo.report.study_page import graph_objects


def write_trajectories(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one self-contained page with MACs of each denoiser call against its noise level, a line for each row.

    Args:
        path: Where to write, atomically.
        rows: Rows of `profile` with a trajectory; others are left out.

    Raises:
        UserError: plotly is not installed, or the path cannot be written.
    """
    go = graph_objects()
    figure = go.Figure([trace(row) for row in rows if "trajectory" in row])
    figure.update_layout(
        title="What an image costs, call by call",
        xaxis={"title": "sigma, noise relative to the image", "type": "log", "autorange": "reversed"},
        yaxis={"title": "MACs of a call, per image", "rangemode": "tozero"},
        template="plotly_white",
        showlegend=True,
    )
    write_text(path, figure.to_html(include_plotlyjs=True, full_html=True))


def trace(row: Mapping[str, Any]) -> dict[str, Any]:
    """The calls of one row, in their order; a call without any signal has no place on the axis."""
    calls = [call for call in row["trajectory"] if call["sigma"] is not None and 0 < call["sigma"] < float("inf")]
    total = f"{row['macs_per_image']:.3e} MACs per image, NFE {row['nfe']}"
    return {
        "type": "scatter",
        "name": f"{row['name']}, {row['sampler']}, {row['steps']} steps: {total}",
        "x": [call["sigma"] for call in calls],
        "y": [call["macs"] for call in calls],
        "mode": "lines+markers",
        "line": {"shape": "hvh"},
    }
