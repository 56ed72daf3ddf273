"""Where along the noise levels a sampler run spends its multiply-adds, as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def trajectory_plot(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """MACs of each denoiser call against its noise level, a line for each row, as plotly takes it.

    Args:
        rows: Rows of `profile`; those without a trajectory are left out.

    Returns:
        None where no row has one.
    """
    lines = [_line(row) for row in rows if "trajectory" in row]
    layout = {
        "title": {"text": "What an image costs, call by call"},
        "xaxis": {"title": {"text": "sigma, noise relative to the image"}, "type": "log", "autorange": "reversed"},
        "yaxis": {"title": {"text": "MACs of a call, per image"}, "rangemode": "tozero"},
        "template": "plotly_white",
        "showlegend": True,
    }
    return {"data": lines, "layout": layout} if lines else None


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
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
