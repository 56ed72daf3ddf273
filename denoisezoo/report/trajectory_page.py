"""A page that shows where along the noise levels a sampler run spends its multiply-adds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from denoisezoo.files import write_text
from denoisezoo.profiling.trajectory_plot import trajectory_plot
from denoisezoo.report.study_page import graph_objects


def write_trajectories(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one self-contained page with MACs of each denoiser call against its noise level, a line for each row.

    Args:
        path: Where to write, atomically.
        rows: Rows of `profile` with a trajectory; others are left out.

    Raises:
        UserError: plotly is not installed, or the path cannot be written.
    """
    figure = graph_objects().Figure(trajectory_plot(rows))
    write_text(path, figure.to_html(include_plotlyjs=True, full_html=True))
