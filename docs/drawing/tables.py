"""Tables of what `results/` has, written into pages between `<!-- table: NAME -->` and `<!-- end of table -->`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from drawing import ROOT, grouped, mean_std, rows_of
from drawing.results import CHANNEL, EDGES, UDPM, Rows, fast_rows

Table = list[list[str]]
"""The heading, and rows of as many cells."""

BLOCK = re.compile(r"<!-- table: (\w+) -->\n\n.*?\n?<!-- end of table -->", re.S)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TABLES: dict[str, Callable[[], Table]] = {}


def table(make: Callable[[], Table]) -> Callable[[], Table]:
    """Register what makes the table NAME."""
    TABLES[make.__name__] = make
    return make


def filled(text: str) -> str:
    """A page with its tables as they follow from the results."""
    return BLOCK.sub(
        lambda block: f"<!-- table: {block[1]} -->\n\n{markdown(TABLES[block[1]]())}\n\n<!-- end of table -->", text
    )


def rewrite() -> None:
    """Fill the tables of all pages."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            page.write_text(new, encoding="utf-8")


def markdown(rows: Table) -> str:
    """A table in Markdown."""
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" if row else "|" + "---|" * len(head) for row in (head, [], *body))


def _chosen(rows: Table, *columns: int) -> Table:
    return [[row[i] for i in columns] for row in rows]


def pm(rows: Rows, key: str, digits: int, scale: float = 1.0) -> str:
    """Mean ± standard deviation."""
    mean, spread = mean_std(rows, key)
    return f"{mean * scale:.{digits}f} ± {spread * scale:.{digits}f}"


def comparison(name: str, label: str, bold: bool = False) -> Table:
    """Denoisers that `compare` trained on equal terms."""
    found: Mapping[str, Rows] = grouped(rows_of(name), label)
    columns = next(iter(found.values()))[0]
    distances = [key for key in ("fd_pixels", "fd_efflite0") if key in columns]
    best = {key: min(found, key=lambda name: mean_std(found[name], key)[0]) for key in distances}
    heading = [
        *("recipe" if label == "name" else label, "parameters", "MACs per image", "ms per image", "training s"),
        *distances,
        *("times the floor", "precision", "recall"),
    ]
    rows = [heading]
    for key, some in sorted(found.items(), key=lambda item: mean_std(item[1], "fd_pixels")) if bold else found.items():
        cells = {name: pm(some, name, 2 if name == "fd_pixels" else 1) for name in distances}
        rows.append(
            [
                f"`{key}`",
                f"{mean_std(some, 'params')[0] / 1e6:.2f} M",
                f"{mean_std(some, 'macs_per_image')[0] / 1e6:.0f} M",
                pm(some, "latency_ms_per_image", 2),
                pm(some, "train_seconds", 0),
                *(f"**{cell}**" if bold and key == best[name] else cell for name, cell in cells.items()),
                pm(some, "fd_pixels_over_halves", 2),
                pm(some, "precision", 2),
                pm(some, "recall", 2),
            ]
        )
    return rows


@table
def digits() -> Table:
    """Four denoisers of `make demo`."""
    return comparison("digits_cpu", "denoiser", bold=True)


@table
def digits_short() -> Table:
    """The same in the README."""
    return _chosen(digits(), 0, 1, 2, 4, 5, 6)


@table
def missing_u() -> Table:
    """The Missing U's networks and its baseline."""
    return comparison("missing_u_digits_cpu", "name")


@table
def edges() -> Table:
    """Five ways to condition."""
    return _chosen(edges_full(), 0, 1, 2, 4, 5)


@table
def edges_full() -> Table:
    """The same with all figures."""
    found = grouped(rows_of("edges_digits_cpu"), "name")
    rows = [["edges to digits", "PSNR dB", "SSIM", "consistency dB", "diversity", "`fd_pixels`", "joint"]]
    columns = {"psnr": 2, "ssim": 3, "consistency": 2, "diversity": 1, "fd_pixels": 2, "fd_pixels_joint": 2}
    return rows + [[name, *(pm(found[job], *column) for column in columns.items())] for job, name in EDGES.items()]


@table
def fast_ddpm() -> Table:
    """Fast-DDPM and its controls."""
    return _chosen(fast_ddpm_full(), 0, 1, 2, 3, 4)


@table
def fast_ddpm_full() -> Table:
    """The same with the distance."""
    rows = [["trained", "steps of training", "calls", "PSNR dB", "SSIM", "`fd_pixels`"]]
    for name, some in fast_rows().items():
        steps, calls = (f"{int(some[0][key]):,}" for key in ("train_steps", "nfe"))
        rows.append([name, steps, calls, pm(some, "psnr", 2), pm(some, "ssim", 3), pm(some, "fd_pixels", 2)])
    return rows


@table
def udpm() -> Table:
    """UDPM by parts of its loss."""
    rows = [["trained with", "calls", "MACs per image", "`fd_pixels`", "precision"]]
    return rows + [[("UDPM: " if "udpm" in row[0] else "") + row[1], *row[2:6]] for row in udpm_full()[1:]]


@table
def udpm_full() -> Table:
    """The same by recipe, with recall."""
    found = grouped(rows_of("udpm_digits_cpu"), "recipe")
    rows = [["recipe", "trained with", "calls", "MACs per image", "`fd_pixels`", "precision", "recall"]]
    for recipe, name in UDPM.items():
        some = found[recipe]
        macs = f"{float(some[0]['macs_per_image']) / 1e6:.0f} M"
        figures = (pm(some, "fd_pixels", 2), pm(some, "precision", 2), pm(some, "recall", 3))
        rows.append([f"`{recipe.partition('/')[2]}`", name, some[0]["nfe"], macs, *figures])
    return rows


@table
def missing_u_solvers() -> Table:
    """Distance and time by solver, of one seed."""
    runs = [row | {"solver": row["solver"].partition(" ")[2]} for row in rows_of("missing_u_solvers_cpu")]
    found = grouped(runs, "solver", "solver_steps")
    rows = [["solver, steps", "fixed", "mixed", "ms"]]
    for (solver, steps), (fixed, mixed) in found.items():
        distances = (f"{float(row['fd_pixels']):.2f}" for row in (fixed, mixed))
        name = f"{solver}, {steps}" if steps else f"{solver}, tolerance 0.001"
        rows.append([name, *distances, f"{mean_std([fixed, mixed], 'latency_ms_per_image')[0]:.1f}"])
    return rows


@table
def missing_u_robustness() -> Table:
    """PSNR after one call, by the noise on held-out digits."""
    rows = [row for row in rows_of("missing_u_robustness_cpu") if row["psnr_one_step"]]
    levels = list(grouped(rows, "eps"))
    noisy = [f"{float(found[0]['noisy_psnr']):.1f}" for found in grouped(rows, "eps").values()]
    recipes = grouped([row | {"recipe": row["run"].partition("/")[0]} for row in rows], "recipe")
    table = [["denoised by", *(f"eps {level}" for level in levels)], ["nothing", *noisy]]
    for recipe in (row[0].strip("`") for row in missing_u()[1:]):
        by_noise = grouped(recipes[recipe], "eps")
        table.append([f"`{recipe}`", *(pm(by_noise[level], "psnr", 2) for level in levels)])
    return table


@table
def channel() -> Table:
    """Receivers at -5 dB."""
    found = grouped(rows_of("channel_digits32_cpu"), "method")
    rows = [["receiver", "MSE dB", "class accuracy"]]
    for method, name in CHANNEL.items():
        (row,) = found[method]
        cells = []
        for key in ("mse_db", "class_accuracy"):
            spread = float(row[f"{key}_std"] or 0)
            cells.append(f"{float(row[key]):.2f}" + (f" ± {spread:.2f}" if spread else ""))
        rows.append([name, *cells])
    return rows


@table
def multiscale_128() -> Table:
    """Times of the published sizes."""
    rows = [["batch", "`multiscale_128` ms per image", "`vanilla_128` ms per image", "faster", "fewer MACs"]]
    for batch, (ours, uniform) in grouped(rows_of("multiscale_128_cpu")[:4], "batch_size").items():
        times = (f"{float(row['ms_per_image']):,.0f}" for row in (ours, uniform))
        rows.append([batch, *times, *(f"{float(ours[key]):.1f}x" for key in ("speed_up", "macs_ratio"))])
    return rows


@table
def multiscale_digits() -> Table:
    """After equal training time; the first six rows of the file are of earlier code."""
    found = grouped(rows_of("multiscale_digits_cpu")[6:12], "name")
    rows = [["denoiser", "`fd_pixels`", "precision", "MACs per image", "sampling ms per image"]]
    for name, some in {"`multiscale_digits`": found["multiscale"], "`ddpm_digits`, uniform": found["uniform"]}.items():
        macs = f"{float(some[0]['macs_per_image']) / 1e6:.0f} M"
        rows.append(
            [name, pm(some, "fd_pixels", 2), pm(some, "precision", 2), macs, pm(some, "latency_ms_per_image", 1)]
        )
    return rows


@table
def peers() -> Table:
    """Our times beside those of diffusers."""
    rows = [["`ddpm_cifar10`, float32, two cores", "batch", "diffusers ms", "ours ms", "ratio"]]
    for row in rows_of("peers_cpu"):
        times = (f"{float(row[key]):.0f}" for key in ("theirs_ms", "ours_ms"))
        rows.append([row["case"], row["batch_size"], *times, f"{float(row['ratio']):.2f}"])
    return rows


@table
def onnx() -> Table:
    """Differences between onnxruntime and PyTorch."""
    rows = [["network", "effort", "pixels", "G MACs", "difference"]]
    for row in rows_of("onnx_parity_cpu"):
        effort, macs = f"{float(row['effort']):g}", f"{float(row['macs']) / 1e9:.2f}"
        rows.append([f"`{row['denoiser']}`", effort, row["pixels"], macs, f"{float(row['difference']):.1e}"])
    return rows


@table
def onnx_latency() -> Table:
    """Milliseconds of a call."""
    modes = ("eager", "compiled", "onnxruntime")
    rows = [["network", "effort", "pixels", "batch", *(f"{mode} ms" for mode in modes), "over eager", "over compiled"]]
    for row in rows_of("onnx_cpu"):
        known = [f"`{row['denoiser']}`", f"{float(row['effort']):g}", row["pixels"], row["batch_size"]]
        times = (f"{float(row[f'{mode}_ms']):.1f}" for mode in modes)
        rows.append([*known, *times, *(f"{float(row[f'over_{mode}']):.2f}" for mode in modes[:2])])
    return rows


PAIRS = {"digits": 10_000 * 23, "photos32": 2_000 * 23}
"""Calls of the teacher for the pairs of reflow, which are made before training and are not in `train_macs`."""


def few_calls(file: str, where: str, pairs: int, digits: int) -> Table:
    """Methods for few calls by distance and cost; `where` is in the names of the runs that are shown."""
    rows = [row | {"method": row["run"].partition("/")[0]} for row in rows_of(file) if where in row["run"]]
    methods = grouped(rows, "method")
    teacher, counts = methods["diffusion"][0], ("1", "2", "4", "15")
    heading = ["trained by", "seeds", *(f"{nfe} call{'s' * (nfe != '1')}" for nfe in counts), "images", "T MACs"]
    made = [heading]
    for method, some in methods.items():
        by_calls = grouped(some, "nfe")
        seeds = len(by_calls["1"])
        figures = {nfe: pm(by_calls[nfe], "quality", digits) for nfe in counts}
        cells = [figure if seeds > 1 else figure.partition(" ")[0] for figure in figures.values()]
        alone = method in ("diffusion", "mean_flow")
        images, macs = (
            float(some[0][key]) + (0 if alone else float(teacher[key])) for key in ("images_seen", "train_macs")
        )
        if method == "reflow":
            macs += pairs * float(by_calls["1"][0]["macs_per_image"])
        made.append([method.replace("_", " "), str(seeds), *cells, f"{images:,.0f}", f"{macs / 1e12:.1f}"])
    return made


@table
def calls_digits() -> Table:
    """With the network of 8 channels."""
    return few_calls("calls_digits_cpu", "/8/", PAIRS["digits"], 2)


@table
def calls_photos32() -> Table:
    """In features of an ImageNet network."""
    return few_calls("calls_photos32_cpu", "", PAIRS["photos32"], 0)


@table
def samplers() -> Table:
    """Distance against calls on three processes."""
    runs = {
        "variance preserving": ("samplers_digits_cpu", "ddpm_vp_continuous"),
        "blurring": ("samplers_blurring_cpu", "ddpm_blurring"),
        "Langevin": ("samplers_digits_cpu", "ddpm_cld"),
    }
    columns = ("gddim", "gddim:q=2", "gddim:q=3", "euler_maruyama", "heun")
    rows = [["process", "calls", "gddim, q = 1", "q = 2", "q = 3", "Euler-Maruyama", "Heun", "RK45 (calls)"]]
    for name, (file, run) in runs.items():
        found = grouped((row for row in rows_of(file) if row["run"] == run), "sampler")
        distances = [[f"{float(row['fd_pixels']):.2f}" for row in found[sampler][:3]] for sampler in columns]
        best = [min(some, key=float) for some in zip(*distances, strict=True)]
        cells = [
            " / ".join(f"**{value}**" if value == least else value for value, least in zip(some, best, strict=True))
            for some in distances
        ]
        (rk45,) = found["rk45"]
        rows.append([name, "10 / 20 / 50", *cells, f"{float(rk45['fd_pixels']):.2f} ({rk45['nfe']})"])
    return rows


def plan_cell(rows: Rows) -> str:
    """Distance, and the share of the multiply-adds."""
    shares = sorted(float(row["macs_share"]) for row in rows)
    low, high = f"{shares[0]:.3f}", f"{shares[-1]:.3f}"
    return f"{pm(rows, 'fd_pixels', 3)} ({low if low == high else f'{low} to {high}'})"


@table
def plans() -> Table:
    """Plans and single efforts of two recipes."""
    recipes = list(grouped(rows_of("plans_digits_cpu"), "recipe").values())
    rows = [["share of the MACs", "`digits/slim`: widths", "`digits/missing_u_steps`: solver steps"]]
    for name, key, value in (
        ("full network", "plan", -1),
        *((f"plan at {budget}", "budget", budget) for budget in ("0.5", "0.4", "0.3")),
        ("one effort throughout", "plan", -2),
        ("a smaller one", "plan", -3),
    ):
        cells = []
        for found in recipes:
            efforts = list(dict.fromkeys(row["plan"] for row in found if row["plan"].startswith("effort")))
            wanted = value if key == "budget" else efforts[value]
            cells.append(plan_cell([row for row in found if row[key] == wanted]))
        rows.append([name, *cells])
    return rows
