import pytest
import torch

from denoisezoo.archs import create_backbone
from denoisezoo.errors import UserError
from denoisezoo.nn.given import Given


def spread(net):
    """Standard deviation between the images of different noise."""
    noise = 0.3 * torch.randn(32, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float(net(noise, torch.full((32,), 5 / 6)).std(0).mean())


def test_the_head_s_gain_decides_whether_noise_matters_at_first():
    nets = []
    for gain in (0.0, 1.0):
        torch.manual_seed(0)
        nets.append(create_backbone("udpm_digits", head_gain=gain))
    published, lively = nets
    assert spread(published) < 1e-4
    assert spread(lively) > 0.1
    others = [{k: v for k, v in net.state_dict().items() if not k.endswith("head.weight")} for net in nets]
    assert others[0].keys() == others[1].keys()
    assert all(torch.equal(others[0][name], others[1][name]) for name in others[0])


def test_a_condition_is_averaged_to_the_size_of_the_noisy_image():
    net, generator = create_backbone("udpm_tiny", head_gain=1.0).eval(), torch.Generator().manual_seed(0)
    x, cond = torch.randn(2, 3, 4, 4, generator=generator), torch.randn(2, 1, 16, 16, generator=generator)
    means = cond.unflatten(-1, (4, 4)).unflatten(-3, (4, 4)).mean((-3, -1))
    with torch.no_grad():
        given, averaged = Given(image=cond), Given(image=means)
        torch.testing.assert_close(net(x, torch.zeros(2), given), net(x, torch.zeros(2), averaged))
    for size in ((10, 10), (16, 8), (2, 2)):
        with pytest.raises(UserError, match=f"the conditioning image is {size[0]}x{size[1]} and the input 4x4"):
            net(x, torch.zeros(2), Given(image=torch.zeros(2, 1, *size)))


def test_a_negative_gain_is_refused():
    with pytest.raises(UserError, match="head_gain is -1"):
        create_backbone("udpm_digits", head_gain=-1.0)
