"""Every U-Net of the zoo as the network of a multi-scale stage."""

import pytest
import torch

from denoisezoo.archs import create_backbone, list_denoisers
from denoisezoo.archs.variants import get_variant
from denoisezoo.errors import UserError

NETWORKS = [
    name
    for name in list_denoisers()
    if "tiny" in (variant := get_variant(name)).tags
    and variant.family.name != "multiscale"  # which has its own refusal, as has
    and variant.spec.scale == 1  # what changes the size of the image
]
each_network = pytest.mark.parametrize("name", NETWORKS)


def test_every_family_of_u_nets_is_here():
    families = {get_variant(name).family.name for name in list_denoisers()}
    assert {get_variant(name).family.name for name in NETWORKS} == families - {"multiscale", "udpm"}


PLAIN = {"num_classes": 0, "cond_channels": 0, "augment_dim": 0}
"""Networks without a conditioning take no labels."""


@each_network
def test_every_stage_is_that_network_at_its_own_size(name):
    """At every effort: the stage's output is that of the network by itself, with the same weights."""
    net = create_backbone("multiscale_tiny", base=[name, name], resolution=16, **PLAIN).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.02 * torch.randn_like(p))  # outputs begin as 0
    efforts = get_variant(name).efforts
    assert net.efforts == (efforts if len(efforts) > 1 else (1.0,))
    for stage, side in zip(net.stages, (16, 8), strict=True):
        alone = create_backbone(name, resolution=side, out_channels=3, **PLAIN).eval()
        alone.load_state_dict(stage.state_dict())
        x, c_noise = torch.randn(2, 3, side, side), torch.rand(2)
        for effort, own in zip(net.efforts, efforts, strict=True):
            with torch.no_grad():
                found, expected = net(x, c_noise, effort=effort), alone(x, c_noise, effort=own)
            assert found.shape == x.shape
            assert found.abs().max() > 0
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@each_network
def test_a_stage_too_small_for_its_network_is_refused_in_one_line(name):
    """Of 20, 10 and 5 pixels, the last cannot be halved at all, and most patches divide none but the first."""
    with pytest.raises(UserError, match=r"^[^\n]*(resolution (of )?(10|5)|images of 20)\b") as caught:
        create_backbone("multiscale_tiny", base=[name], resolution=20, levels=2, **PLAIN)
    assert "\n" not in str(caught.value)


def test_stages_may_have_sizes_of_their_own():
    sizes = ({"channels": 8}, {"channels": 12, "multipliers": [1]})
    net = create_backbone("multiscale_tiny", sizes=sizes)
    assert [stage.config.channels for stage in net.stages] == [8, 12]
    assert net.stages[1].config.multipliers == (1.0,)
    with pytest.raises(UserError, match="sizes for 1 of 2 stages; give them for each, or for none"):
        create_backbone("multiscale_tiny", sizes=sizes[:1])
    with pytest.raises(UserError, match="unknown argument of ddpm_tiny 'chanels'; did you mean channels"):
        create_backbone("multiscale_tiny", sizes=({"chanels": 8}, {}))
