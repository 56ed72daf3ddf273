import pytest
import torch

from denoisezoo.archs import create_backbone
from denoisezoo.errors import UserError
from denoisezoo.nn.given import Given

PREFIXES = ["ddpm", "ddpmpp", "ncsnpp", "adm"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_layout_is_kept_throughout(prefix):
    """In channels_last no convolution sees, or makes, a tensor of another layout: each would cost a copy."""
    net = create_backbone(f"{prefix}_digits").to(memory_format=torch.channels_last)
    layouts = []

    def note(module, args, output):
        tensors = (*args, output) if module is not net.stem else (output,)
        layouts.extend(t.is_contiguous(memory_format=torch.channels_last) for t in tensors)

    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(note)
    net(torch.randn(2, 1, 16, 16), torch.zeros(2))
    assert len(layouts) > 20
    assert all(layouts)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_takes_other_sizes_than_its_own(prefix):
    net = create_backbone(f"{prefix}_digits")
    assert net(torch.randn(1, 1, 8, 24), torch.zeros(1)).shape == (1, 1, 8, 24)
    with pytest.raises(UserError, match="input size 16x18 is not divisible by 4"):
        net(torch.randn(1, 1, 16, 18), torch.zeros(1))


@pytest.mark.parametrize("prefix", PREFIXES)
def test_labels_by_override(prefix):
    net = create_backbone(f"{prefix}_digits", num_classes=10).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.02 * torch.randn_like(p))
        y = net(torch.randn(1, 1, 16, 16).expand(11, -1, -1, -1), torch.zeros(11), Given(label=torch.arange(-1, 10)))
    distance = torch.cdist(y.flatten(1), y.flatten(1))
    assert distance[~torch.eye(11, dtype=torch.bool)].min() > 1e-2


@pytest.mark.parametrize("prefix", PREFIXES)
def test_starts_near_zero(prefix):
    """A fresh network says (almost) nothing, so that the loss starts at the variance of its target."""
    y = create_backbone(f"{prefix}_digits")(torch.randn(4, 1, 16, 16), torch.rand(4))
    assert y.abs().max() < 1e-3


@pytest.mark.parametrize("prefix", PREFIXES)
def test_inputs_that_the_network_does_not_take(prefix):
    net, x, c_noise = create_backbone(f"{prefix}_digits"), torch.randn(2, 1, 16, 16), torch.zeros(2)
    with pytest.raises(UserError, match="a label was given to an unconditional network; create it with num_classes"):
        net(x, c_noise, Given(label=torch.zeros(2, dtype=torch.int64)))
    with pytest.raises(UserError, match="the conditioning image has 3 channels; this network takes 0"):
        net(x, c_noise, Given(image=torch.zeros(2, 3, 16, 16)))
    with pytest.raises(UserError, match="augment has 9 channels; this network takes 0"):
        net(x, c_noise, Given(augment=torch.zeros(2, 9)))
    net = create_backbone(f"{prefix}_tiny")
    with pytest.raises(UserError, match="the conditioning image has 0 channels; this network takes 1"):
        net(torch.randn(1, 3, 8, 8), torch.zeros(1))


def test_dropout_is_active_in_training_only():
    net = create_backbone("ddpm_tiny", dropout=0.5, num_classes=0, cond_channels=0)
    torch.nn.init.normal_(net.head.weight)
    for block in net.decoder:
        if hasattr(block, "conv1"):
            torch.nn.init.normal_(block.conv1.weight)
    x, c_noise = torch.randn(1, 3, 8, 8), torch.zeros(1)
    assert not torch.equal(net(x, c_noise), net(x, c_noise))
    net.eval()
    assert torch.equal(net(x, c_noise), net(x, c_noise))
