"""The report of a comparison: typed records, result rows, and one self-contained HTML page."""

from denoisezoo.report.html import write_report
from denoisezoo.compare.records import Comparison, RunRecord, load_comparison, save_comparison

__all__ = ["Comparison", "RunRecord", "load_comparison", "save_comparison", "write_report"]
