"""Perceptual networks: what they are trained on, where they are kept, and what is refused."""

import pytest
import torch

from denoisezoo.data import Digits, Photos
from denoisezoo.diffusion import perceptual
from denoisezoo.diffusion.perceptual import FILE, VGG_LAYERS, load_vgg, perceptual_network, train_classifier
from denoisezoo.errors import UserError


@pytest.fixture(scope="module")
def digits():
    """Small digits."""
    data = Digits(resolution=8)
    data.setup()
    return data


def test_a_classifier_learns_the_digits(digits):
    _, accuracy = train_classifier(digits, steps=100)
    assert accuracy > 0.8


def test_it_is_trained_once_and_leaves_the_random_state_alone(digits, tmp_path, monkeypatch):
    before = torch.get_rng_state()
    monkeypatch.setattr(perceptual, "STEPS", 3)
    first = perceptual_network(None, digits, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(perceptual, "train_classifier", None)
    second = perceptual_network(None, digits, tmp_path)
    image = torch.rand(2, 1, 8, 8) * 2 - 1
    for a, b in zip(first(image), second(image), strict=True):
        assert torch.equal(a, b)
    assert first.title == second.title
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert [tuple(h.shape[1:]) for h in first(image)] == [(16, 8, 8), (32, 4, 4), (64, 2, 2)]
    assert len(first(image[..., :2, :2])) == 2  # nothing is left to pool


def test_a_damaged_file_is_told(digits, tmp_path):
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged"):
        perceptual_network(None, digits, tmp_path)


def test_data_without_classes_are_refused(tmp_path):
    data = Photos(resolution=16, batch_size=8)
    data.setup()
    data._splits["train"].labels.zero_()
    with pytest.raises(UserError, match="vgg"):
        perceptual_network(None, data, tmp_path)
    assert not list(tmp_path.iterdir())


def test_vgg_returns_what_its_layers_do(tmp_path):
    """The activations before each pooling, of weights made up here, for a grey image."""
    from torchvision.models import vgg16

    torch.manual_seed(0)
    network = vgg16(weights=None).features.eval()
    torch.save({f"features.{name}": value for name, value in network.state_dict().items()}, tmp_path / "vgg.pth")
    found = load_vgg(tmp_path / "vgg.pth")
    image = torch.rand(1, 1, 32, 32) * 2 - 1
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    h, expected = ((image + 1) / 2 - mean) / std, []
    for i, layer in enumerate(network):
        h = layer(h)
        if i in VGG_LAYERS:
            expected.append(h.clone())
    for a, b in zip(found(image), expected, strict=True):
        torch.testing.assert_close(a, b)
    assert found.title.startswith("vgg16 ")
