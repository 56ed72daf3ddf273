"""A plan: how much of a backbone to use at each noise level."""

from __future__ import annotations

import bisect
import itertools
import json
import math
import reprlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from denoisezoo.archs import Effort
from denoisezoo.errors import UserError
from denoisezoo.files import beside, local_path

EXAMPLE = 'it should look like {"efforts": [0.5, 1.0], "edges": [0.0]}'


@dataclass(frozen=True)
class Plan:
    """Effort as a piecewise constant function of the noise level, valid for any process and step grid.

    The noise level is the log-SNR, log(alpha^2 / sigma^2), which grows from noise to image.

    Attributes:
        efforts: One for each segment, from the noisiest to the cleanest.
        edges: Log-SNR where one segment ends and the next begins, increasing; one fewer than `efforts`. A noise level
            on an edge belongs to the cleaner segment.

    Raises:
        UserError: Edges that do not increase, or of the wrong number; no effort; values that are not finite.
    """

    efforts: tuple[Effort, ...]
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        cure = 'write {"efforts": [0.5, 1.0], "edges": [0.0]}: a log-SNR between each two efforts, increasing'
        if len(self.efforts) != len(self.edges) + 1:
            covers = "does not cover all noise levels" if len(self.efforts) <= len(self.edges) else "lacks an edge"
            raise UserError(f"a plan of {len(self.efforts)} efforts has {len(self.edges)} edges: it {covers}", cure)
        if not all(map(math.isfinite, (*self.efforts, *self.edges))):
            raise UserError("a plan has values that are not finite", cure)
        if any(a >= b for a, b in itertools.pairwise(self.edges)):
            raise UserError(f"edges {list(self.edges)} of a plan do not increase", cure)

    def effort(self, log_snr: float) -> Effort:
        """The effort at a noise level."""
        return self.efforts[bisect.bisect_right(self.edges, log_snr)]

    def check(self, efforts: Sequence[Effort]) -> None:
        """See that a network has all efforts of this plan.

        Args:
            efforts: Those that the network offers.

        Raises:
            UserError: One is missing: the plan is for another network.
        """
        missing = sorted(set(self.efforts) - set(efforts))
        if missing:
            offered = ", ".join(f"{effort:g}" for effort in efforts)
            raise UserError(
                f"the plan is for another network: it uses effort {missing[0]:g}, this one offers {offered}",
                "use a plan that was made for it",
            )

    def to_dict(self) -> dict[str, Any]:
        """As the JSON object."""
        return {key: list(values) for key, values in asdict(self).items()}

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """From the JSON object.

        Raises:
            UserError: Not a plan.
        """
        if not isinstance(values, Mapping):
            raise UserError("not a plan: no JSON object", EXAMPLE)
        extra = set(values) - {"efforts", "edges"}
        if extra:
            raise UserError(f"a plan has no {min(map(repr, extra))}", "its keys are efforts and edges")
        return cls(*(_numbers(values.get(key, []), key) for key in ("efforts", "edges")))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """From JSON text.

        Raises:
            UserError: Not a plan.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):  # the latter for thousands of brackets
            raise UserError("not a plan: no JSON", EXAMPLE) from None
        return cls.from_dict(values)


def _numbers(values: Any, key: str) -> tuple[float, ...]:
    """A list of finite numbers, and nothing that Python would also take for one.

    Raises:
        UserError: Something else.
    """
    if not isinstance(values, list | tuple):
        raise UserError(f"{key} of a plan is no list", EXAMPLE)
    for value in values:
        # JSON's whole numbers may be too large for a float.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise UserError(f"{key} of a plan has {reprlib.repr(value)}, which is no finite number", EXAMPLE)
    return tuple(map(float, values))


def load_plan(path: str | Path) -> Plan:
    """Read a plan from a file.

    Raises:
        UserError: No such file, or not a plan; its path is named.
    """
    try:
        text = local_path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"there is no plan {path}", beside(path) or "give the path of a plan's JSON file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the plan {path}: {error}", "give the path of a plan's JSON file") from None
    try:
        return Plan.from_json(text)
    except UserError as error:
        raise UserError(f"{path}: {error.what}", error.cure) from None
