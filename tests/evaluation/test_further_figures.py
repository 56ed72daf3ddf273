"""Kernel distance, density, coverage, test of copying and intervals, against other implementations and by hand."""

import statistics

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import mannwhitneyu
from torchmetrics.image.kid import poly_mmd

from denoisezoo import cli
from denoisezoo.errors import UserError
from denoisezoo.evaluation.bootstrap import frechet_interval
from denoisezoo.evaluation.data_copying import copying_test
from denoisezoo.evaluation.density_coverage import density_coverage
from denoisezoo.evaluation.frechet import frechet_distance, gaussian_stats
from denoisezoo.evaluation.further_figures import FurtherFigures
from denoisezoo.evaluation.kernel_mmd import kernel_distance_with_error
from denoisezoo.evaluation.metrics import Evaluator


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_kernel_distance_is_torchmetrics():
    a, b = normal(50, 6), normal(50, 6, seed=1) + 0.3
    assert kernel_distance_with_error(a, b)[0] == pytest.approx(float(poly_mmd(a, b)), rel=1e-10)


def test_its_error_is_the_jackknife_done_by_leaving_out():
    a, b = normal(9, 3), 2 * normal(7, 3, seed=1)
    variance = 0.0
    for one, other in ((a, b), (b, a)):
        n = len(one)
        left = [kernel_distance_with_error(torch.cat([one[:i], one[i + 1 :]]), other)[0] for i in range(n)]
        variance += (n - 1) / n * sum((x - statistics.fmean(left)) ** 2 for x in left)
    assert kernel_distance_with_error(a, b)[1] == pytest.approx(variance**0.5, rel=1e-9)


def test_its_error_is_the_spread_over_fresh_sets():
    found = [
        kernel_distance_with_error(normal(60, 4, seed=2 * i), normal(80, 4, seed=2 * i + 1) + 1) for i in range(80)
    ]
    estimates, errors = zip(*found, strict=True)
    assert statistics.fmean(errors) == pytest.approx(statistics.stdev(estimates), rel=0.3)


def test_density_and_coverage_by_hand():
    """Balls of 0, 1 and 3 on a line reach 1, 1 and 2 far; 0.5 is in the first two, 10 in none."""
    real, generated = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.5], [10.0]])
    assert density_coverage(generated, real, k=1) == (2 / (1 * 2), pytest.approx(2 / 3))
    assert density_coverage(real, real, k=1)[1] == 1
    with pytest.raises(UserError, match="need more than 5 images"):
        density_coverage(generated, real)


def test_the_copying_test_is_mann_whitneys():
    training, held_out, generated = normal(100, 2), normal(40, 2, seed=1), normal(50, 2, seed=2)
    far = [torch.cdist(x, training).min(1).values for x in (generated, held_out)]
    z = copying_test(generated, training, held_out, cells=1)
    U = mannwhitneyu(*far, method="asymptotic", use_continuity=False)
    m, n = 50, 40
    assert z == pytest.approx((U.statistic - m * n / 2) / (m * n * (m + n + 1) / 12) ** 0.5)


def test_copies_are_told_from_new_and_from_strange_images():
    training, held_out = normal(400, 4), normal(150, 4, seed=1)
    copies, new, strange = training[:200] + 0.01, normal(200, 4, seed=2), 2 * normal(200, 4, seed=3)
    assert copying_test(copies, training, held_out) < -3
    assert abs(copying_test(new, training, held_out)) < 3
    assert copying_test(strange, training, held_out) > 3


def test_the_interval_is_as_wide_as_fresh_sets_are_spread():
    def sets(i):
        return normal(150, 3, seed=2 * i), normal(150, 3, seed=2 * i + 1) + 1

    spread = statistics.stdev(frechet_distance(*map(gaussian_stats, sets(i))) for i in range(60))
    low, high = frechet_interval(*sets(0), resamples=100)
    assert (high - low) / (2 * 1.96) == pytest.approx(spread, rel=0.35)
    assert (low + high) / 2 == pytest.approx(frechet_distance(*map(gaussian_stats, sets(0))))


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (60, 1, 4, 4), dtype=torch.uint8, generator=generator)


def test_all_of_one_evaluator(images):
    evaluator = Evaluator(images[:30], training=images[:20], held_out=images[20:30])
    figures = FurtherFigures(evaluator).of(images[30:])
    assert set(figures) == {
        *("fd_pixels_low", "fd_pixels_high", "kd_pixels", "kd_pixels_se", "density", "coverage", "copying"),
    }
    distance = evaluator.evaluate(images[30:])["fd_pixels"]
    assert figures["fd_pixels_low"] < distance < figures["fd_pixels_high"]


def test_by_class(images):
    labels = torch.arange(30) % 2
    further = FurtherFigures(Evaluator(images[:30]))
    figures = further.by_class(images[30:], labels, labels)
    fake, real = (x[labels == 1].flatten(1) / 127.5 - 1 for x in (images[30:], images[:30]))
    assert figures["kd_pixels_class_1"] == pytest.approx(float(poly_mmd(fake, real)), rel=1e-3)
    assert set(figures) == {
        f"{figure}_class_{label}{end}"
        for label in (0, 1)
        for figure, end in (("kd_pixels", ""), ("kd_pixels", "_se"), ("coverage", ""))
    }
    with pytest.raises(UserError, match="have no classes; leave `by_class` out"):
        further.by_class(images[30:], None, labels)
    with pytest.raises(UserError, match="class 0 has 3 generated and 15 real images; generate more"):
        further.by_class(images[30:36], labels[:6], labels)


@pytest.fixture
def folder(tmp_path, images):
    (tmp_path / "images").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(tmp_path / "images" / f"{i}.png")
    return tmp_path / "images"


def test_the_command_prints_details_and_warns(folder, tmp_path, capsys):
    arguments = ["evaluate", "--images", str(folder), "--reference", str(folder), "--details"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr()
    assert all(name in printed.out for name in ("fd_pixels_low", "kd_pixels_se", "density", "coverage"))
    assert not printed.err
    assert cli.main([*arguments, "--features", "pixels16"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "warning: covariances of 256 features (pixels16) from 60 images have at most rank 59" in line


def test_what_cannot_be_is_told_in_one_line(folder, tmp_path, capsys):
    moments = tmp_path / "moments.npz"
    np.savez(moments, mu=np.zeros(16), sigma=np.eye(16))
    assert cli.main(["evaluate", "--images", str(folder), "--reference", str(moments), "--details"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds statistics and no images; leave --details and --by-class out" in line
    assert cli.main(["evaluate", "--images", str(folder), "--reference", str(folder), "--by-class"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--by-class is for runs" in line
    for few in sorted(folder.iterdir())[2:]:
        few.unlink()
    assert cli.main(["evaluate", "--images", str(folder), "--reference", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: a Frechet distance needs at least 2 images on each side, and one has 1; give more"
