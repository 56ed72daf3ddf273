"""LPIPS against torchmetrics' implementation, with AlexNet's weights at random: the real ones are 233 MB."""

import pytest
import torch
from torchmetrics.functional.image import lpips as reference
from torchvision.models import alexnet

from denoisezoo.errors import UserError
from denoisezoo.evaluation.lpips import LPIPS, mean_distance


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    state = {k: v for k, v in alexnet(weights=None).state_dict().items() if k.startswith("features.")}
    torch.save(state, path)
    return path


def test_against_torchmetrics(weights):
    ours = LPIPS(weights)
    theirs = reference._LPIPS(pnet_rand=True)
    places = iter(range(12))
    for part in (theirs.net.slice1, theirs.net.slice2, theirs.net.slice3, theirs.net.slice4, theirs.net.slice5):
        for layer in part:
            layer.load_state_dict(ours.features[next(places)].state_dict())
    a, b = (torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in (0, 1))
    torch.testing.assert_close(ours(a, b), theirs(a, b).flatten(), rtol=1e-3, atol=1e-6)
    assert ours(a, a).eq(0).all()
    assert mean_distance(ours, a, b, 1) == pytest.approx(float(ours(a, b).mean()), rel=1e-4)
    assert ours(a[:, :1, :16, :16], b[:, :1, :16, :16]).shape == (2,)


def test_missing_and_damaged_weights(tmp_path, weights):
    with pytest.raises(UserError, match="LPIPS weights are not at"):
        LPIPS(tmp_path / "nowhere.pth")
    (tmp_path / "bad.pth").write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        LPIPS(tmp_path / "bad.pth")
    torch.save({"features.0.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="AlexNet"):
        LPIPS(tmp_path / "other.pth")
