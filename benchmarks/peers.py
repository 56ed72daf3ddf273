"""Times `ddpm_cifar10` against diffusers' UNet2DModel of the same shape with the same weights, on the CPU in float32.

    python benchmarks/peers.py --csv results/peers_cpu.csv

Both run in one process and alternate, the first one changing from round to round, so that a busy machine slows both.
A round during which other programs took processor time is repeated, for a minute per case at most ("disturbed" counts
them): two threads that wait for each other suffer from a third program beyond measure.
diffusers runs as it comes, eager and in the default layout, and in the cases "both compiled" as well as torch makes it:
`torch.compile` of both sides in the same way, as they come, in channels_last, and with frozen weights. Ours runs in
channels_last; "compiled" is `torch.compile` with frozen weights, beside diffusers as it comes; "compiled, Winograd" is
that of `denoisezoo.nn.winograd.with_winograd(net)`, whose first compilation takes two minutes. A case fails when
outputs differ by more than 1e-4. Exit status 1 means that a target was missed. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import copy
import csv
import datetime
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from denoisezoo.archs import create_backbone
from denoisezoo.archs.ddpm import DDPM, DDPMConfig
from denoisezoo.machine_load import Load
from denoisezoo.nn.blocks import ConvDown, ConvUp, ResidualBlock, SelfAttention
from denoisezoo.nn.winograd import with_winograd

try:
    import diffusers
except ModuleNotFoundError:
    sys.exit("error: diffusers is not installed; pip install 'denoisezoo[bench]'")

TOLERANCE = 1e-4
QUIET = 0.06
"""Rounds in which other programs take more of the processors than this are repeated."""
BOTH = ("default", "channels_last", "channels_last, frozen")
"""Ways to compile both sides."""
Call = Callable[[], object]


def build_peer(config: DDPMConfig) -> Any:
    """diffusers' network of this shape: the configuration of google/ddpm-cifar10-32, for its sizes."""
    kinds = ["Attn" if config.attends(level) else "" for level in range(len(config.widths))]
    return diffusers.UNet2DModel(
        sample_size=config.resolution,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        layers_per_block=config.blocks,
        block_out_channels=config.widths,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        attention_head_dim=config.head_channels or None,
        norm_num_groups=config.norm_groups,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        dropout=config.dropout,
    )


def copy_weights(theirs: Any, ours: DDPM) -> None:
    """Give our network the weights of diffusers' network of the same shape."""
    stages = list(_peer_stages(theirs))
    for mine, peer in zip(ours.stages, stages, strict=True):
        for a, b in _layers(mine, peer):
            a.load_state_dict(b.state_dict())
    embedding = theirs.time_embedding
    pairs = [
        (ours.stem, theirs.conv_in),
        (ours.embedding.first, embedding.linear_1),
        (ours.embedding.second, embedding.linear_2),
        (ours.conditioning, _joined([s[0].time_emb_proj for s in stages if isinstance(s, tuple)])),
        (ours.norm, theirs.conv_norm_out),
        (ours.head, theirs.conv_out),
    ]
    for a, b in pairs:
        a.load_state_dict(b.state_dict())


def _peer_stages(theirs: Any) -> Iterator[Any]:
    """diffusers' stages in running order: (residual block, attention or None), or a resampling convolution."""
    middle = theirs.mid_block
    for block in theirs.down_blocks:
        yield from _with_attention(block)
        yield from (down.conv for down in block.downsamplers or ())
    yield from zip(middle.resnets, [middle.attentions[0], None], strict=True)
    for block in theirs.up_blocks:
        yield from _with_attention(block)
        yield from (up.conv for up in block.upsamplers or ())


def _with_attention(block: Any) -> Iterator[tuple[nn.Module, nn.Module | None]]:
    yield from zip(block.resnets, getattr(block, "attentions", None) or [None] * len(block.resnets), strict=True)


def _layers(mine: nn.Module, peer: Any) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Pairs of layers with equal weights inside one stage."""
    if isinstance(mine, ConvDown | ConvUp):
        yield mine.conv, peer
        return
    assert isinstance(mine, ResidualBlock)
    resnet, attention = peer
    yield from [(mine.norm0, resnet.norm1), (mine.conv0, resnet.conv1)]
    yield from [(mine.norm1, resnet.norm2), (mine.conv1, resnet.conv2)]
    if mine.skip is not None:
        yield mine.skip, resnet.conv_shortcut
    if isinstance(mine.attention, SelfAttention):
        yield mine.attention.norm, attention.group_norm
        yield mine.attention.qkv, _joined([attention.to_q, attention.to_k, attention.to_v])
        yield mine.attention.out, attention.to_out[0]


def _joined(layers: list[nn.Linear]) -> nn.Linear:
    """Several linear layers on the same input as one."""
    joined = nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers))
    joined.weight.data = torch.cat([layer.weight for layer in layers]).detach()
    joined.bias.data = torch.cat([layer.bias for layer in layers]).detach()
    return joined


@dataclass(frozen=True)
class Row:
    """One case: times in milliseconds and ours / theirs, with 10th and 90th percentile; `disturbed` rounds not counted.

    The ratio is the median over rounds, whose two calls are neighbours in time: that is steadier than the ratio of two
    medians when other programs come and go.
    """

    case: str
    batch_size: int
    theirs_ms: float
    theirs_p10: float
    theirs_p90: float
    ours_ms: float
    ours_p10: float
    ours_p90: float
    ratio: float
    ratio_p10: float
    ratio_p90: float
    target: float | None
    max_difference: float
    rounds: int
    disturbed: int


class Bench:
    """The two networks with equal weights, and the cases to time."""

    def __init__(self, rounds: int, patience: float) -> None:
        torch.manual_seed(0)
        self.rounds, self.patience = rounds, patience
        ours = create_backbone("ddpm_cifar10", dropout=0.0)
        assert isinstance(ours, DDPM)
        self.theirs = build_peer(ours.config).eval()  # type: ignore[arg-type]
        copy_weights(self.theirs, ours)
        self.ours = ours.eval().to(memory_format=torch.channels_last)

    def inputs(self, batch: int) -> tuple[Tensor, Tensor]:
        """A batch of noise (B, 3, 32, 32) and steps (B,)."""
        generator = torch.Generator().manual_seed(batch)
        return torch.randn(batch, 3, 32, 32, generator=generator), torch.randint(1000, (batch,), generator=generator)

    def inference(
        self,
        batch: int,
        net: nn.Module | None = None,
        case: str = "eager",
        target: float | None = 1.0,
        peer: Any = None,
    ) -> Row:
        """Times a forward pass of `net`, ours by default, against one of `peer`, diffusers' by default."""
        x, t = self.inputs(batch)
        net, peer = self.ours if net is None else net, self.theirs if peer is None else peer

        def theirs() -> Tensor:
            with torch.no_grad():
                return peer(x, t).sample

        def ours() -> Tensor:
            with torch.no_grad():
                return net(x, t)

        return self.time(f"inference, {case}", batch, theirs, ours, target, difference(theirs(), ours()))

    def compiled(self, batch: int, net: nn.Module, case: str, target: float | None) -> Row:
        """Times a compiled `net` with frozen weights."""
        with torch._inductor.config.patch(freezing=True):
            torch.compiler.reset()
            fast = torch.compile(net, dynamic=False)
            return self.inference(batch, fast, case, target)  # type: ignore[arg-type]

    def both_compiled(self, batch: int, how: str, ours: nn.Module | None = None) -> Row:
        """Times both networks compiled in the same way: as they come, in channels_last, or that with frozen weights."""
        layout = torch.contiguous_format if how == "default" else torch.channels_last
        mine = copy.deepcopy(self.ours if ours is None else ours).to(memory_format=layout)
        peer = copy.deepcopy(self.theirs).to(memory_format=layout)
        with torch._inductor.config.patch(freezing="frozen" in how):
            torch.compiler.reset()
            fast, theirs = torch.compile(mine, dynamic=False), torch.compile(peer, dynamic=False)
            return self.inference(batch, fast, f"both compiled, {how}", 1.0, theirs)  # type: ignore[arg-type]

    def training(self, batch: int) -> Row:
        """Times forward, backward and optimizer step, both with fused AdamW."""
        x, t = self.inputs(batch)
        steps = []
        for net in (self.theirs.train(), self.ours.train()):
            optimizer = torch.optim.AdamW(net.parameters(), lr=1e-6, fused=True)
            steps.append(_training_step(net, optimizer, x, t))
        theirs, ours = steps
        gap = difference(theirs(), ours())
        row = self.time("training step, eager", batch, theirs, ours, 1.0, gap)
        copy_weights(self.theirs.eval(), self.ours.eval())
        return row

    def time(self, case: str, batch: int, theirs: Call, ours: Call, target: float | None, gap: float) -> Row:
        """Alternates the two calls; see `Row`."""
        for call in (theirs, ours, theirs, ours):
            call()
        pairs, disturbed = self.measure(theirs, ours)
        a, b = ([pair[i] for pair in pairs] for i in (0, 1))
        ratios = [y / x for x, y in pairs]
        row = Row(case, batch, *spread(a), *spread(b), *spread(ratios), target, gap, len(pairs), disturbed)
        print(line(row), flush=True)
        return row

    def measure(self, theirs: Call, ours: Call) -> tuple[list[tuple[float, float]], int]:
        """Milliseconds of `rounds` pairs of calls, and how many pairs were thrown away because other programs ran."""
        pairs: list[tuple[float, float]] = []
        thrown: list[tuple[float, float]] = []
        deadline = time.monotonic() + self.patience
        while len(pairs) < self.rounds:
            before = Load.now()
            pair = timed_pair(theirs, ours, swap=len(pairs) % 2 == 1)
            if before.others_since() < QUIET or time.monotonic() > deadline:
                pairs.append(pair)
            else:
                thrown.append(pair)
                time.sleep(0.5)
        return pairs, len(thrown)


def timed_pair(theirs: Call, ours: Call, swap: bool) -> tuple[float, float]:
    """Milliseconds of one call of each; `swap` runs ours first."""
    times = {}
    for call in (ours, theirs) if swap else (theirs, ours):
        start = time.perf_counter()
        call()
        times[call] = 1e3 * (time.perf_counter() - start)
    return times[theirs], times[ours]


def _training_step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, t: Tensor) -> Callable[[], Tensor]:
    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        y = net(x, t)
        y = getattr(y, "sample", y)
        (y - x).square().mean().backward()
        optimizer.step()
        return y.detach()

    return step


def difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference of two outputs.

    Raises:
        RuntimeError: It is above the tolerance, so that the two networks are not the same.
    """
    gap = (a - b).abs().max().item()
    if gap > TOLERANCE:
        raise RuntimeError(f"outputs differ by {gap:.1e}, more than {TOLERANCE:.0e}")
    return gap


def spread(values: list[float]) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile."""
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return statistics.median(values), deciles[0], deciles[8]


def run(bench: Bench, batches: list[int], compiled: bool) -> list[Row]:
    """All cases, printed as they come."""
    rows = [case(batch) for case in (bench.inference, bench.training) for batch in batches]
    if compiled:
        fast = with_winograd(bench.ours)
        for batch in batches:
            rows.append(bench.compiled(batch, bench.ours, "compiled", None))
            rows.append(bench.compiled(batch, fast, "compiled, Winograd", 0.75))
        rows += [bench.both_compiled(batch, how) for how in BOTH for batch in batches]
        rows += [bench.both_compiled(batch, f"{BOTH[-1]}, ours Winograd", fast) for batch in batches]
    return rows


HEADER = f"{'case':30s} {'batch':>5s} {'diffusers ms':>22s} {'ours ms':>22s} {'ratio':>20s}  target  difference"


def line(row: Row) -> str:
    """A row of the printed table."""
    theirs = f"{row.theirs_ms:.1f} ({row.theirs_p10:.0f}-{row.theirs_p90:.0f})"
    ours = f"{row.ours_ms:.1f} ({row.ours_p10:.0f}-{row.ours_p90:.0f})"
    ratio = f"{row.ratio:.3f} ({row.ratio_p10:.2f}-{row.ratio_p90:.2f})"
    target = "-" if row.target is None else f"{row.target:.2f} {'ok' if row.ratio <= row.target else 'MISSED'}"
    start = f"{row.case:30s} {row.batch_size:5d} {theirs:>22s} {ours:>22s}"
    return f"{start} {ratio:>20s}  {target:7s} {row.max_difference:.1e}"


def machine() -> dict[str, object]:
    """Where, when and with what the times were taken."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": names[0] if names else platform.processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "command": f"python {' '.join(sys.argv)}",
    }


def write_csv(path: Path, rows: list[Row], where: dict[str, object]) -> None:
    """Write the rows, each with the machine's description."""
    records = [{**asdict(row), **where} for row in rows]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {key: f"{v:.4g}" if isinstance(v, float) else v for key, v in record.items()} for record in records
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="also write the table there")
    parser.add_argument("--rounds", type=int, default=21, help="timed calls of each network per case")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--patience", type=float, default=60, help="seconds per case to wait for a quiet machine")
    parser.add_argument("--no-compile", action="store_true", help="eager cases only")
    args = parser.parse_args(argv)
    where = machine()
    print("  ".join(f"{key} {value}" for key, value in where.items()), HEADER, sep="\n")
    rows = run(Bench(args.rounds, args.patience), args.batch_size, not args.no_compile)
    if args.csv:
        write_csv(args.csv, rows, where)
    missed = [row for row in rows if row.target is not None and row.ratio > row.target]
    print(f"{len(missed)} of {sum(row.target is not None for row in rows)} targets missed")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
