"""Features of a reference are made once, and never taken for those of others."""

import pytest
import torch

from denoisezoo.evaluation.feature_cache import cached_features
from denoisezoo.evaluation.features.extractor import Features
from denoisezoo.evaluation.metrics import Evaluator


class Sums(Features):
    name = "sums"
    weights_sha256 = "0" * 64

    def __init__(self):
        self.calls = 0

    def __call__(self, pixels):
        self.calls += 1
        return pixels.float().sum((2, 3))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "denoisezoo" / "features"


PIXELS = torch.arange(4 * 3 * 4, dtype=torch.uint8).reshape(4, 3, 2, 2)


def test_an_evaluator_makes_them_once():
    features = Sums()
    first, second = Evaluator(PIXELS, features=features), Evaluator(PIXELS, features=features)
    assert features.calls == 1
    assert torch.equal(first.real, second.real)
    assert torch.equal(first.real, PIXELS.float().sum((2, 3)))


def test_other_pixels_weights_and_names_are_others(cache):
    features = Sums()

    def made(pixels):
        before = features.calls
        assert torch.equal(cached_features(pixels, features, features.extract), pixels.float().sum((2, 3)))
        return features.calls > before

    assert made(PIXELS)
    assert not made(PIXELS)
    assert made(PIXELS + 1)
    assert made(PIXELS.reshape(4, 3, 1, 4))  # of other shape
    features.weights_sha256 = "1" * 64
    assert made(PIXELS)
    features.name = "sums:size=3"
    assert made(PIXELS)
    assert len(list(cache.iterdir())) == 5


def test_damaged_files_are_made_again_and_no_cache_is_no_harm(cache):
    features = Sums()
    expected = cached_features(PIXELS, features, features.extract)
    (file,) = cache.iterdir()
    for content in (b"", b"\x93NUMPY damaged", file.read_bytes()[:-8]):
        file.write_bytes(content)
        assert torch.equal(cached_features(PIXELS, features, features.extract), expected)
    assert features.calls == 4
    file.unlink()
    cache.rmdir()
    cache.write_text("in the way")
    assert torch.equal(cached_features(PIXELS, features, features.extract), expected)


def test_what_has_no_weights_is_not_kept(cache):
    features = Sums()
    features.weights_sha256 = None
    for _ in range(2):
        cached_features(PIXELS, features, features.extract)
    assert features.calls == 2
    assert not cache.exists()
