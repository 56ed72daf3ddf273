from __future__ import annotations

import pytest
import torch

from denoisezoo.errors import UserError
from denoisezoo.evaluation import distances
from denoisezoo.evaluation.distances import nearest
from denoisezoo.evaluation.precision_recall import Manifold, precision_recall, radii


def brute_force(generated: torch.Tensor, real: torch.Tensor, k: int) -> tuple[float, float]:
    """The definition, one pair at a time."""

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).norm())

    def radius(points: torch.Tensor, i: int) -> float:
        return sorted(distance(points[i], points[j]) for j in range(len(points)) if j != i)[k - 1]

    def share(queries: torch.Tensor, points: torch.Tensor) -> float:
        reach = [radius(points, i) for i in range(len(points))]
        return sum(any(distance(q, p) <= r for p, r in zip(points, reach, strict=True)) for q in queries) / len(queries)

    return share(generated, real), share(real, generated)


@pytest.mark.parametrize("k", [1, 3])
def test_agrees_with_the_definition(k, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", 7)
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    generated = 0.6 * torch.randn(33, 5, generator=generator, dtype=torch.float64) + 0.8
    expected = brute_force(generated, real, k)
    assert 0 < expected[0] < 1
    assert 0 < expected[1] < 1
    assert precision_recall(generated, real, k) == pytest.approx(expected, abs=1e-12)


def test_known_cases():
    real = torch.arange(10.0)[:, None]  # on a line, one apart: with k = 1 each ball reaches its neighbours
    assert radii(real, 1).tolist() == pytest.approx([1.0] * 10)
    assert radii(real, 2).tolist() == pytest.approx([2.0] + [1.0] * 8 + [2.0])
    near, far = real + 0.5, real + 100
    assert precision_recall(near, real, k=1) == (1.0, 1.0)
    assert precision_recall(far, real, k=1) == (0.0, 0.0)
    one_mode = torch.full((10, 1), 4.5) + torch.linspace(-0.1, 0.1, 10)[:, None]
    assert precision_recall(one_mode, real, k=1) == (1.0, 0.0)


def test_blocks_do_not_change_the_distances(monkeypatch):
    points, queries = torch.randn(50, 8), torch.randn(30, 8)
    expected = torch.cdist(queries.double(), points.double())
    monkeypatch.setattr(distances, "BLOCK", 4)
    found, indices = nearest(queries, points, 50)
    torch.testing.assert_close(found, expected.sort().values)
    assert torch.equal(indices, expected.argsort())


@pytest.mark.parametrize("columns", [2, 3, 40])
def test_tiles_of_points_do_not_change_figures_and_neighbours(columns, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    real, generated = (torch.randn(n, 5, generator=generator) for n in (41, 30))
    expected, (found, places) = precision_recall(generated, real), nearest(generated, real, 4)
    monkeypatch.setattr(distances, "COLUMNS", columns)
    assert precision_recall(generated, real) == expected
    again, same_places = nearest(generated, real, 4)
    torch.testing.assert_close(again, found, rtol=1e-12, atol=1e-12)
    assert torch.equal(same_places, places)


def test_a_manifold_serves_many_sets():
    generator = torch.Generator().manual_seed(2)
    real, *sets = (torch.randn(20, 3, generator=generator) for _ in range(3))
    manifold = Manifold(real, 2)
    for generated in sets:
        assert precision_recall(generated, manifold, 2) == precision_recall(generated, real, 2)


def test_equal_vectors_far_from_the_origin_are_at_distance_zero():
    points = torch.randn(20, 300) + 1000
    assert nearest(points, points, 1)[0].max() < 1e-5


def test_too_few():
    with pytest.raises(UserError, match="need more than 3 images on each side, and one has 3"):
        precision_recall(torch.rand(3, 2), torch.rand(9, 2))
