"""Plans that need no search, found by name: `uniform:effort=0.5`, `two_segment:noisy=0.5,clean=1`, `ddsm_cifar10`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from denoisezoo.errors import UserError, unknown
from denoisezoo.plans.plan import Plan, load_plan
from denoisezoo.registry import Registry

PRESETS: Registry[Callable[..., Plan]] = Registry("plan")


@PRESETS.register("uniform")
def uniform(effort: float) -> Plan:
    """One effort at every noise level."""
    return Plan((effort,))


@PRESETS.register("two_segment")
def two_segment(noisy: float, clean: float, log_snr: float = 0.0) -> Plan:
    """One effort while noise prevails, another after; T-Stitch (arXiv 2402.14167) with efforts for networks."""
    return Plan((noisy, clean), (log_snr,))


@PRESETS.register("ddsm_cifar10")
def ddsm_cifar10() -> Plan:
    """The plan that DDSM found for CIFAR-10 (EnVision-Research/DDSM, eval/search.txt), widths 0.25 to 1.

    Of its 1,000 steps, t = 0-265 use width 1, 266-428 use 0.75, 470-999 use 0.5. Between, 41 steps mix 8 x 1,
    18 x 0.75, 4 x 0.5 and 11 x 0.25 in an order that is not published; here each width has one run of them. The edges
    are the log-SNR between two steps of the linear schedule of 1,000 betas from 1e-4 to 0.02.
    """
    edges = (-2.1435, -2.0272, -1.9853, -1.7983, -1.7161, -0.0776)
    return Plan((0.5, 0.25, 0.5, 0.75, 1.0, 0.75, 1.0), edges)


def find_plan(text: str) -> Plan:
    """The plan of a file, or a preset with its numbers.

    Raises:
        UserError: Neither; or a file that holds no plan, or a preset with other numbers than it takes.
    """
    name, _, options = text.partition(":")
    if Path(text).is_file() or "/" in text or text.endswith(".json"):
        return load_plan(text)
    if name not in PRESETS:
        raise unknown("plan file or preset", name, list(PRESETS))
    make = PRESETS[name]
    known = inspect.signature(make).parameters
    values: dict[str, float] = {}
    for item in filter(None, options.split(",")):
        key, _, value = item.partition("=")
        if key not in known:
            raise unknown(f"number of plan {name}", key, known)
        try:
            values[key] = float(value)
        except ValueError:
            raise UserError(f"{key} of plan {name} is {value!r}", "give a number") from None
    if missing := [key for key, p in known.items() if p.default is p.empty and key not in values]:
        raise UserError(f"plan {name} needs {missing[0]}", f"write {name}:" + ",".join(f"{key}=..." for key in known))
    return make(**values)
