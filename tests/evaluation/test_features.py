from __future__ import annotations

from pathlib import Path

import pytest
import torch

from denoisezoo.errors import UserError
from denoisezoo.evaluation.features import (
    FEATURES,
    INCEPTION_FILE,
    INCEPTION_VARIABLE,
    Inception,
    create_features,
    find_inception,
)
from denoisezoo.evaluation.metrics import Evaluator, evaluate_images
from denoisezoo.files import sha256
from denoisezoo.pixels import to_float


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file in the format of torch-fidelity's Inception-v3, with random weights."""
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    path = tmp_path_factory.mktemp("weights") / INCEPTION_FILE
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def no_weights(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(INCEPTION_VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def test_pixels_are_the_flattened_image():
    pixels = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    features = create_features("pixels")
    assert torch.equal(features(pixels), to_float(pixels).flatten(1))
    assert (features.distance_name, features.weights_sha256) == ("fd_pixels", None)


def test_extraction_in_batches_is_that_of_the_whole():
    pixels = torch.randint(0, 256, (11, 1, 8, 8), dtype=torch.uint8)
    features = create_features("pixels")
    assert torch.equal(features.extract(pixels, batch_size=3), features(pixels))
    assert torch.equal(features.extract(to_float(pixels)), features(pixels))


def test_float_images_are_rounded_as_saved_ones_are():
    image = torch.full((1, 1, 2, 2), 0.0001)
    assert torch.equal(create_features("pixels").extract(image), to_float(torch.full((1, 4), 128, dtype=torch.uint8)))


def test_pixels16_averages():
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    features = create_features("pixels16")
    expected = to_float(pixels).unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2)).flatten(1)
    torch.testing.assert_close(features(pixels), expected)
    assert features.distance_name == "fd_pixels16"


def test_pixels_refuse_large_images_and_say_what_to_use():
    with pytest.raises(
        UserError, match=r"\(3, 64, 64\) have 12288 pixel features, over 4096; .*inception, or pixels16"
    ):
        create_features("pixels")(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_unknown_features():
    with pytest.raises(UserError, match="unknown feature extractor 'pixel'; did you mean pixels"):
        create_features("pixel")


@pytest.mark.usefixtures("no_weights")
def test_missing_weights_say_what_to_pass(tmp_path):
    with pytest.raises(UserError, match=f"not at .*{INCEPTION_FILE}; pass the path of .* or set {INCEPTION_VARIABLE}"):
        create_features("inception")
    with pytest.raises(UserError, match="not at /nowhere"):
        create_features("inception", weights="/nowhere")
    with pytest.raises(UserError) as caught:
        evaluate_images(torch.zeros(4, 1, 4, 4), torch.zeros(4, 1, 4, 4), features="inception")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_weights")
def test_weights_are_found_by_argument_variable_and_cache(tmp_path, monkeypatch):
    cached = tmp_path / "hub" / "checkpoints" / INCEPTION_FILE
    cached.parent.mkdir(parents=True)
    for name in (cached, tmp_path / "variable.pth", tmp_path / "argument.pth"):
        name.write_bytes(b"")
    assert find_inception() == cached
    monkeypatch.setenv(INCEPTION_VARIABLE, str(tmp_path / "variable.pth"))
    assert find_inception() == tmp_path / "variable.pth"
    assert find_inception(tmp_path / "argument.pth") == tmp_path / "argument.pth"


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def test_damaged_strange_and_dangerous_weights(tmp_path, weights, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    contents = {
        "damaged": weights.read_bytes()[: 1 << 20],
        "empty": b"",
        "other": {"conv.weight": torch.zeros(1)},
        "code": {"Conv2d_1a_3x3.conv.weight": Payload()},
    }
    for content in contents.values():
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(UserError, match=r"does not hold Inception-v3 weights, or is damaged; fetch"):
            Inception(path)
    assert not (tmp_path / "ran").exists()


def test_weights_of_a_network_that_lacks_layers(tmp_path):
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(UserError, match="holds weights of another network"):
        Inception(tmp_path / "part.pth")


def test_inception_gives_fid_and_kid_and_its_hash(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    real = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = create_features("inception", weights=weights)
    assert features.weights_sha256 == sha256(weights)
    evaluator = Evaluator(real, features=features)
    assert evaluator.real.shape == (5, 2048)
    rgb = features(real[:2].expand(-1, 3, -1, -1))
    torch.testing.assert_close(evaluator.real[:2], rgb, rtol=1e-4, atol=1e-5)
    figures = evaluator.evaluate(255 - real)
    assert set(figures) == {"fid", "fid_halves", "fid_over_halves", "precision", "recall", "kid"}
    assert figures["fid"] > 0


def test_only_inception_may_be_called_fid():
    assert [name for name in FEATURES if FEATURES[name].distance_name is not FEATURES["pixels"].distance_name] == [
        "inception"
    ]
