"""The parser of commands, and arguments that several of them share."""

from __future__ import annotations

import argparse
import contextlib
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from denoisezoo.errors import UserError, unknown
from denoisezoo.files import local_path, no_run
from denoisezoo.locking import only_writer

if TYPE_CHECKING:
    from denoisezoo.runs.run import Run
    from denoisezoo.runs.terms import Settings, Terms


DEFAULT_SAMPLING = "heun", 18
"""Sampler and steps."""


class Parser(argparse.ArgumentParser):
    """Reports mistakes as `UserError` and names the nearest valid option or choice."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, refusing an unknown option by name."""
        known, extra = self.parse_known_args(args, namespace)
        if not extra:
            return known
        first = extra[0].partition("=")[0]
        if first.startswith("-"):
            raise unknown("option", first, self._option_string_actions, f"{self.prog} --help")
        raise UserError(f"unexpected argument {first!r}", f"see {self.prog} --help")

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and exiting."""
        raise UserError(message.removeprefix("argument "), f"see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            name = "/".join(action.option_strings) or action.metavar or action.dest
            raise unknown(f"{name}", value, map(str, action.choices))


def declare(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    """Declare the arguments of a command, and those that all have."""
    module.add_arguments(parser)
    parser.add_argument(
        "--trust", metavar="PACKAGE,...", type=lambda text: text.split(","), default=[],
        help="packages whose code a run may name (none but denoisezoo)",
    )  # fmt: skip


def at_least(least: int) -> Callable[[str], int]:
    """A parser of whole numbers that are at least `least`."""

    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} should be at least {least}")
        return value

    parse.__name__ = "whole number"
    return parse


def finite(text: str) -> float:
    """A number that is neither infinite nor NaN."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} should be finite")
    return value


finite.__name__ = "number"


def interval(text: str) -> tuple[float, float]:
    """Two numbers, LOW,HIGH."""
    low, high = (float(part) for part in text.split(","))
    return low, high


interval.__name__ = "pair of numbers such as 0.2,5"


def file_path(text: str) -> Path:
    """A path to write to, refused before anything long begins where it is a URL."""
    try:
        return local_path(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run_path(text: str) -> str:
    """Where a run is to be; that nothing is there is told before anything heavy is imported."""
    if ":" not in text and not Path(text).exists():
        raise argparse.ArgumentTypeError(str(no_run(text)))
    return text


def shipped_samplers() -> list[str]:
    """Names of this package's samplers, read off its files: help answers before torch is imported."""
    files = (Path(__file__).parents[1] / "diffusion" / "samplers").glob("*.py")
    return sorted(
        name for file in files for name in re.findall(r'^@SAMPLERS\.register\("(\w+)"\)', file.read_text(), re.M)
    )


def add_sampling_arguments(
    parser: argparse.ArgumentParser, *, num: int | None, guide: bool = False, customary: bool = False
) -> None:
    """--sampler, --steps, --num, --seed, --batch-size, --device, --dtype, --plan, --guidance, --draws, --compile.

    Args:
        parser: Gets them.
        num: Default of --num.
        guide: Whether --guide is taken.
        customary: Leave sampler and steps open where they are not given, for `take_customary`; and --codec is taken.
    """
    group = parser.add_argument_group("sampling")
    foreign = ", or what is customary for an imported run" if customary else ""
    sampler, steps = (None, None) if customary else DEFAULT_SAMPLING
    group.add_argument(
        "--sampler",
        default=sampler,
        help=f"{', '.join(shipped_samplers())}, or one of a plugin, with its options, e.g. ddim:eta=0.5 "
        f"({DEFAULT_SAMPLING[0]}{foreign})",
    )
    group.add_argument(
        "--steps", type=at_least(1), default=steps, help=f"sampler steps ({DEFAULT_SAMPLING[1]}{foreign})"
    )
    shown = "as many as reference images" if num is None else str(num)
    group.add_argument("--num", type=at_least(1), default=num, help=f"images to generate ({shown})")
    group.add_argument("--seed", type=at_least(0), default=0, help="seed of the first image; image i has seed + i")
    group.add_argument("--batch-size", type=at_least(1), default=256, help="images at a time (%(default)s)")
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (cuda if there is one)")
    group.add_argument("--dtype", default="float32", help="of the network: float32, bfloat16 or float64")
    group.add_argument(
        "--noise",
        choices=("cpu", "device"),
        default="cpu",
        help="drawn by the CPU, the same for every device, or on it",
    )
    group.add_argument(
        "--plan", metavar="P", help="effort at each noise level: a JSON file, or e.g. uniform:effort=0.5"
    )
    group.add_argument("--guidance", type=finite, metavar="W", help="scale of classifier-free guidance, such as 2")
    group.add_argument(
        "--guidance-interval", type=interval, metavar="LOW,HIGH", help="noise levels between which it guides (all)"
    )
    if guide:
        group.add_argument(
            "--guide", metavar="RUN", help="a lesser network that --guidance leads away from (the run, without labels)"
        )
    if customary:
        group.add_argument(
            "--codec", metavar="C", help="another codec of the run's latents, e.g. autoencoder:path=RUN (its own)"
        )
    group.add_argument("--draws", type=at_least(1), default=5, help="samples of each condition (%(default)s)")
    group.add_argument("--compile", action="store_true", help="compile the network first")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """--data.path, --data.test_path, --data.root, --data.resize, as `train` has them: where the run's data are now."""
    group = parser.add_argument_group(
        "data", "where those of the run are now; relative paths of its recipe are tried first"
    )
    for key, what in (
        ("path", "folder or zip of images"),
        ("test_path", "folder or zip of held-out images"),
        ("root", "folder with CIFAR-10"),
    ):
        group.add_argument(f"--data.{key}", dest=f"data_{key}", metavar="PATH", help=what)
    group.add_argument(
        "--data.resize",
        dest="data_resize",
        choices=("true", "false"),
        help="cut the middle square of each image and resize it, instead of refusing other sizes (as the recipe says)",
    )


def run_of(args: argparse.Namespace) -> Run:
    """The run that the arguments name, with its data where they say and the task's options that they change; the
    arguments take its customary sampler.

    Raises:
        UserError: See `load_run`, `with_places` and `with_task`.
    """
    from denoisezoo.runs.changed import with_places, with_task
    from denoisezoo.runs.run import load_run
    from denoisezoo.train.places import PLACES

    trained = load_run(args.run, args.weights, codec=getattr(args, "codec", None))
    take_customary(args, trained)
    places = {key: place for key in PLACES if (place := getattr(args, f"data_{key}")) is not None}
    resize = None if args.data_resize is None else args.data_resize == "true"
    trained = with_places(trained, places, resize) if places or resize is not None else trained
    task = getattr(args, "task", None)  # search has none
    return with_task(trained, task) if task else trained


def take_customary(args: argparse.Namespace, run: Run) -> None:
    """Fill in the sampler and the steps that were not given: those customary for the weights, else the default."""
    known = run.sampling(args.sampler, args.steps)
    args.sampler, args.steps = (known.get(k, v) for k, v in zip(("sampler", "steps"), DEFAULT_SAMPLING, strict=True))


def variety(args: argparse.Namespace) -> str:
    """What is added to the name of a folder, so that images made by a plan, guidance, for a label, by another codec or
    by raw weights do not meet those without."""
    plan, codec = args.plan or "", getattr(args, "codec", None) or ""
    parts = [Path(plan).stem if plan.endswith(".json") else plan, codec]
    parts += [f"{n}_{value:g}" for n in ("guidance", "label") if (value := getattr(args, n, None)) is not None]
    parts += ["raw"] * (args.weights == "raw")
    return "".join(f"_{re.sub('[:,/ ]', '_', part)}" for part in parts if part)


def terms_of(args: argparse.Namespace) -> Terms:
    """The terms of sampling that the arguments state; `make_settings` checks them."""
    return {
        "sampler": args.sampler,
        "steps": args.steps,
        "num": args.num,
        "seed": args.seed,
        "batch_size": args.batch_size,
        "device": args.device,
        "dtype": args.dtype,
        "compile": args.compile,
        "noise": args.noise,
        "plan": args.plan,
        "guidance": args.guidance,
        "guidance_interval": args.guidance_interval,
        "guide": getattr(args, "guide", None),
        "draws": args.draws,
    }


def settings_of(args: argparse.Namespace, **more: Any) -> Settings:
    """The terms that the arguments state, and more of them, as settings.

    Raises:
        UserError: Unknown sampler, device, dtype or plan.
    """
    from denoisezoo.runs.terms import make_settings

    return make_settings(**terms_of(args), **more)


def task_options(text: str) -> dict[str, object]:
    """`KEY=VALUE,...` with values as in a recipe."""
    import yaml

    pairs = [part.partition("=") for part in text.split(",")]
    if not all(key and sign for key, sign, _ in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} should be KEY=VALUE,...")
    return {key: yaml.safe_load(value) for key, _, value in pairs}


task_options.__name__ = "task options"


@contextlib.contextmanager
def output_folder(out: Path, rank: int = 0, *, wait: bool = False) -> Iterator[None]:
    """Within it, this command alone writes into the folder of its output.

    Args:
        out: The folder.
        rank: Which process of several this is; the first one writes.
        wait: Wait for a command that writes there, instead of refusing.

    Raises:
        UserError: It is a file, or another process writes there.
    """
    refuse_file(out)
    with contextlib.ExitStack() as held:
        if rank == 0:
            held.enter_context(only_writer(out, "wait until it has ended, or give another --out", wait=wait))
        yield


def refuse_file(out: Path) -> None:
    """Refuse an output folder that is a file.

    Raises:
        UserError: It is one.
    """
    if out.is_file():
        raise UserError(f"--out {out} is a file", "give a folder")
