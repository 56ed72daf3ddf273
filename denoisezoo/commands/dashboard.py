"""The W&B workspace of a project, with a section for each question: which denoiser is best at my budget, is it still
learning, where in noise is it bad, what does it cost.

It needs wandb-workspaces and, unless --dry-run is given, a key for W&B. The runs come from `train --wandb PROJECT` and
`compare --wandb PROJECT`.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from denoisezoo.errors import UserError

BEST, LEARNING, NOISE, COST = (
    "Which one is best at my budget?",
    "Is it still learning?",
    "Where in noise is it bad?",
    "What does it cost?",
)
STEP = "trainer/global_step"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("project", metavar="PROJECT", help="W&B's project, as given to --wandb")
    parser.add_argument("--entity", help="user or team that it belongs to (W&B's default)")
    parser.add_argument("--name", default="denoisezoo", help="what to call the view (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the layout as JSON and send nothing")


def run(args: argparse.Namespace) -> int:
    """Lay out the workspace."""
    if not args.project or "/" in args.project:
        raise UserError(f"PROJECT {args.project!r} is no name of a project", "give ENTITY by --entity, PROJECT alone")
    workspace = make_workspace(args.entity or "", args.project, args.name)
    if args.dry_run:
        print(json.dumps(layout(workspace), indent=2))
        return 0
    try:
        workspace.save()
    except Exception as error:  # login, network, rights: W&B raises many kinds
        lines = (str(error) or type(error).__name__).splitlines()
        cure = "see `wandb login`, or look at the layout with --dry-run"
        raise UserError(f"W&B does not take the workspace of {args.project}: {lines[0][:150]}", cure) from error
    print(f"workspace: {workspace.url}")
    return 0


def make_workspace(entity: str, project: str, name: str) -> Any:
    """The workspace, not yet sent.

    Raises:
        UserError: wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.workspaces as ws
    except ImportError:
        raise UserError("wandb-workspaces is not installed", "pip install 'denoisezoo[dashboard]'") from None
    made = [ws.Section(name=title, panels=panels, is_open=True) for title, panels in sections().items()]
    runs = ws.RunsetSettings(groupby=[ws.Config("family")])
    return ws.Workspace(entity=entity, project=project, name=name, sections=made, runset_settings=runs)


def sections() -> dict[str, list[Any]]:
    """Question -> the panels that answer it."""
    import wandb_workspaces.reports.v2 as wr

    def line(title: str, *y: str, **options: Any) -> Any:
        return wr.LinePlot(title=title, x=STEP, y=list(y), **options)

    return {
        BEST: [
            wr.WeavePanelSummaryTable(table_name="pareto/table"),
            wr.MediaBrowser(title="Quality against cost, by family", media_keys=["pareto/scatter"]),
            wr.ScatterPlot(title="Validation loss against MACs", x="macs_per_image", y="val/loss", log_x=True),
        ],
        LEARNING: [
            line("Training loss", "train/loss", smoothing_factor=0.8, smoothing_type="exponential"),
            line("Validation loss", "val/loss"),
            wr.MediaBrowser(title="Samples, averaged and raw", media_keys=["samples/ema", "samples/raw"]),
            line("Norm of the gradient", "grad_norm"),
            wr.LinePlot(title="Norm of the gradient by block", x=STEP, metric_regex="grad_norm/.*"),
            line("Skipped steps", "guard/skipped"),
        ],
        NOISE: [
            wr.MediaBrowser(title="Loss by noise level over time", media_keys=["noise/heat_map"]),
            wr.LinePlot(title="Loss by log-SNR", x=STEP, metric_regex="loss_by_noise/.*"),
            wr.LinePlot(title="Skipped samples by log-SNR", x=STEP, metric_regex="guard/skipped_by_noise/.*"),
        ],
        COST: [
            wr.WeavePanelSummaryTable(table_name="costs"),
            wr.WeavePanelSummaryTable(table_name="trajectory/cost"),
            wr.MediaBrowser(title="Cost and plan", media_keys=["trajectory/cost_plot", "trajectory/plan_plot"]),
            line("Images per second", "images_per_s"),
            line("Share of peak", "share_of_peak"),
            wr.BarPlot(title="MACs of an image", metrics=["macs_per_image"]),
        ],
    }


def layout(workspace: Any) -> dict[str, list[dict[str, Any]]]:
    """Question -> kind and contents of its panels."""
    return {section.name: [_panel(panel) for panel in section.panels] for section in workspace.sections}


def _panel(panel: Any) -> dict[str, Any]:
    shown = ("title", "x", "y", "metric_regex", "media_keys", "metrics", "table_name")
    values = {key: getattr(panel, key, None) for key in shown}
    return {"kind": type(panel).__name__} | {key: _plain(value) for key, value in values.items() if value}


def _plain(value: Any) -> Any:
    """A value without W&B's own classes."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str) else str(getattr(value, "name", value))
