"""The report of a comparison: typed records, result rows, and one self-contained HTML page."""

from denoisezoo.compare.records import Comparison, RunRecord, load_comparison, save_comparison
from denoisezoo.report.html import write_report

__all__ = ["Comparison", "RunRecord", "load_comparison", "save_comparison", "write_report"]
