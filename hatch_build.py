"""Records the commit in wheels and source distributions, for `denoisezoo --version` and result cards."""

from __future__ import annotations

import runpy
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitRecord(BuildHookInterface):
    """Puts a file with the commit beside the code; the tree stays as it is."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the file and include it; an editable installation asks git whenever it is asked."""
        names = runpy.run_path(str(Path(self.root, "denoisezoo", "version.py")))
        commit = names["git_commit"]()
        if version == "editable" or commit is None:
            return
        self.folder = tempfile.TemporaryDirectory()
        record = Path(self.folder.name, names["RECORD"])
        record.write_text(commit + "\n", encoding="ascii")
        build_data["force_include"][str(record)] = f"denoisezoo/{record.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Take the file away again."""
        if hasattr(self, "folder"):
            self.folder.cleanup()
