from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from denoisezoo.errors import UserError
from denoisezoo.evaluation import distances, precision_recall
from denoisezoo.evaluation.features import create_each
from denoisezoo.evaluation.frechet import frechet_distance, gaussian_stats
from denoisezoo.evaluation.metrics import Evaluator, evaluate_images, halves_distance, kernel_distance, roomy
from denoisezoo.pixels import to_float


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    images = (torch.from_numpy(load_digits().images)[:, None] * 15.9375).to(torch.uint8)
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]  # mixes the writers


def test_real_images_score_as_halves_do_and_noise_does_not(digits):
    figures = evaluate_images(digits[:900], digits[900:])
    assert set(figures) == {"fd_pixels", "fd_pixels_halves", "fd_pixels_over_halves", "precision", "recall"}
    assert figures["fd_pixels_over_halves"] < 5
    assert figures["precision"] > 0.7
    assert figures["recall"] > 0.7
    noise = evaluate_images(torch.rand(900, 1, 8, 8) * 2 - 1, digits[900:])
    assert noise["fd_pixels_over_halves"] > 20
    assert noise["precision"] == 0


def test_a_perfect_copy_has_distance_zero_and_is_found_out(digits):
    figures = evaluate_images(digits[:500], digits[:500], training=digits[:500], held_out=digits[500:600])
    assert figures["fd_pixels"] == pytest.approx(0, abs=1e-6)
    assert (figures["precision"], figures["recall"], figures["memorised_share"]) == (1, 1, 1)
    assert figures["nearer_than_held_out"] == 1


def test_figures_are_those_of_their_definitions(digits):
    real, fake = digits[:300], digits[300:700]
    figures = evaluate_images(fake, real)
    flat_fake, flat_real = to_float(fake).flatten(1), to_float(real).flatten(1)
    assert figures["fd_pixels"] == frechet_distance(gaussian_stats(flat_fake), gaussian_stats(flat_real))
    assert figures["fd_pixels_halves"] == halves_distance(flat_real)
    assert figures["fd_pixels_over_halves"] == figures["fd_pixels"] / figures["fd_pixels_halves"]


def test_float_and_uint8_images_score_the_same(digits):
    pixels = evaluate_images(digits[:200], digits[200:400])
    assert evaluate_images(to_float(digits[:200]), to_float(digits[200:400])) == pixels


def test_the_same_seed_gives_the_same_floor_and_another_seed_another(digits):
    floors = [Evaluator(digits[:200], seed=seed).floor for seed in (0, 0, 1)]
    assert floors[0] == floors[1] != floors[2]


def test_the_floor_shrinks_with_the_reference(digits):
    flat = to_float(digits).flatten(1)
    assert halves_distance(flat) < halves_distance(flat[:600]) < halves_distance(flat[:200])


def test_the_floor_is_the_mean_over_random_halves(digits):
    flat = to_float(digits[:100]).flatten(1)
    generator = torch.Generator().manual_seed(3)
    expected = []
    for _ in range(2):
        order = torch.randperm(100, generator=generator)
        expected.append(frechet_distance(gaussian_stats(flat[order[:50]]), gaussian_stats(flat[order[50:]])))
    assert halves_distance(flat, num_halves=2, seed=3) == pytest.approx(sum(expected) / 2)


def test_one_evaluator_serves_several_sets(digits):
    evaluator = Evaluator(digits[:300], training=digits[:300])
    for fake in (digits[300:600], digits[600:900]):
        assert evaluator.evaluate(fake) == evaluate_images(fake, digits[:300], training=digits[:300])


def test_the_real_side_is_searched_once(digits, monkeypatch):
    searched, blocks = [], distances.distance_blocks
    for module in (distances, precision_recall):
        monkeypatch.setattr(module, "distance_blocks", lambda a, b: searched.append(len(b)) or blocks(a, b))
    evaluator = Evaluator(digits[:60], training=digits[:70], held_out=digits[70:100])
    times = []
    for _ in range(2):
        searched.clear()
        evaluator.evaluate(digits[100:150])
        times.append(sorted(searched))
    # Points: radii and inside, of 50 samples and of 60 real images; 70 training images, for samples and for held-out.
    assert times == [[50, 50, 60, 60, 70, 70], [50, 50, 60, 70]]


def test_images_are_judged_on_a_gpu_that_has_room_for_them(digits, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (16 * digits.numel(), 10**12))
    assert roomy("cuda:1", digits) == "cuda:1"
    assert roomy("cuda", digits, digits) == "cpu" == roomy("cpu", digits)


def test_kernel_distance_agrees_with_the_unbiased_estimate_on_one_subset():
    """With as many images as a subset holds, every subset is the whole set."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(60, 10, generator=generator, dtype=torch.float64) + shift for shift in (0.0, 0.5))

    def k(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a @ b.T / 10 + 1) ** 3

    n = len(x)
    own = sum((k(z, z).sum() - k(z, z).trace()) / (n * (n - 1)) for z in (x, y))
    assert kernel_distance(x, y) == pytest.approx(float(own - 2 * k(x, y).mean()), rel=1e-4)
    assert kernel_distance(x, y, seed=0) == kernel_distance(x, y, seed=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_the_same_figures(digits):
    options = {"training": digits[:300], "held_out": digits[300:400]}
    ours = evaluate_images(digits[600:900], digits[:300], device="cuda", **options)
    assert ours == pytest.approx(evaluate_images(digits[600:900], digits[:300], **options), rel=1e-5)


def test_errors(digits):
    with pytest.raises(UserError, match=r"shape \(1, 4, 4\) and reference images of shape \(1, 8, 8\) cannot"):
        evaluate_images(digits[:10, :, :4, :4], digits)
    with pytest.raises(UserError, match=r"the generated images have shape \(0, 1, 8, 8\)"):
        evaluate_images(digits[:0], digits[:20])
    with pytest.raises(UserError, match=r"the reference images have shape \(8, 8\)"):
        evaluate_images(digits[:10], digits[0, 0])
    broken = to_float(digits[:10])
    broken[3, 0, 0, 0], broken[5] = float("nan"), float("inf")
    with pytest.raises(UserError, match="2 of 10 generated images hold NaN or infinity; the model has diverged"):
        evaluate_images(broken, digits[:20])
    with pytest.raises(UserError, match="at least 2 images"):
        evaluate_images(digits[:1], digits[:20])
    with pytest.raises(UserError, match="more than 3 images"):
        evaluate_images(digits[:3], digits[:20])


def test_several_features_each_give_their_distance(digits):
    """The first ones' figures are as alone; of the others there are distance and floor, as alone."""
    real, fake = digits[:300].repeat_interleave(4, 2).repeat_interleave(4, 3), digits[300:500].repeat(1, 1, 4, 4)
    both = Evaluator(real, features="pixels+pixels16")
    alone = {name: Evaluator(real, features=name).evaluate(fake) for name in ("pixels", "pixels16")}
    names = ["fd_pixels16", "fd_pixels16_halves", "fd_pixels16_over_halves"]
    assert both.evaluate(fake) == alone["pixels"] | {name: alone["pixels16"][name] for name in names}
    assert alone["pixels16"]["fd_pixels16"] != alone["pixels"]["fd_pixels"]
    assert both.features_sha256 is None
    with pytest.raises(UserError, match="unknown feature extractor 'pixels17'"):
        Evaluator(real, features="pixels+pixels17")
    assert [f.name for f in create_each("pixels16+pixels")] == ["pixels16", "pixels"]
    moments = Evaluator(real).stats
    with pytest.raises(UserError, match="statistics of pixels alone"):
        Evaluator(torch.empty(0, *real.shape[1:], dtype=torch.uint8), features="pixels+pixels16", moments=moments)
