"""U-Nets against their papers' own code: a few outputs of small networks whose weights are the formula of `filled`.

Each fixture is y[1].flatten()[::n/8] of what the named code returned, in float32 on a CPU, for these weights under its
own names and rows (q, k and v of several heads are ordered otherwise there), the images of `filled_images` and the
noise inputs 3 and 870.
"""

import math

import pytest
import torch
from torch import nn

from denoisezoo.archs import create_backbone
from denoisezoo.errors import UserError
from denoisezoo.nn.given import Given


def filled(net):
    """Every weight lively: sin(k^2/7 + i) at element k of parameter i, scaled to its fan-in; norms around 1."""
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            k = torch.arange(parameter.numel(), dtype=torch.float64)
            scale = math.sqrt(2 / parameter[0].numel()) if parameter.ndim > 1 else 0.1
            parameter.copy_(scale * torch.sin(k.square() / 7 + i).reshape(parameter.shape))
        for module in net.modules():
            if isinstance(module, nn.GroupNorm):
                module.weight += 1
    return net.eval()


def filled_images(spec):
    shape = 2, spec.in_channels, spec.resolution, spec.resolution
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(k.square() / 7).reshape(shape).float()


def answers(name, label=None, augment=None, **sizes):
    net = filled(create_backbone(name, resolution=8, multipliers=sizes.pop("multipliers", (1, 2)), blocks=1, **sizes))
    with torch.no_grad():
        y = net(filled_images(net.spec), torch.tensor([3.0, 870.0]), Given(label=label, augment=augment))[1].flatten()
    return y[:: len(y) // 8]


MSDIFF = {"name": "adm_msdiff_128_d3", "multipliers": (0.5, 1), "attention": (8,)}
PAIR = {"name": "ddpm_pair_160", "attention": (4,), "dropout": 0.0}
GUIDED = {"name": "adm_imagenet256", "channels": 64, "attention": (8, 4), "num_classes": 0}
EDM = {
    "name": "adm_imagenet64",
    "channels": 64,
    "attention": (4,),
    "norm_groups": None,  # min(32, C / 4) in EDM's code
    "out_channels": 3,
    "num_classes": 3,
    "augment_dim": 9,
    "label": torch.tensor([0, 2]),
}


def test_multi_scale_diffusion_has_32_groups_at_every_width():
    # GBATZOLIS/MSDiff c7bef56, models/guided_diff_unet.py, UNetModel: 128 channels, channel_mult (.5, 1), 1 block,
    # attention at rate 1, 64 channels per head, scale-shift norm, residual resampling.
    theirs = [0.026717, -0.194299, 0.094472, 0.060541, -0.388337, -0.341747, 0.477553, -0.028845]
    torch.testing.assert_close(answers(**MSDIFF), torch.tensor(theirs), rtol=0, atol=1e-5)
    assert (answers(**MSDIFF, norm_groups=None) - torch.tensor(theirs)).abs().max() > 0.1


def test_cmde_has_32_groups_at_96_channels():
    # GBATZOLIS/conditional_score_diffusion ae7b330, models/ddpm.py, DDPM: nf 96, ch_mult (1, 2), 1 block, attention at
    # 4 pixels, 6 channels in and out, images centred.
    theirs = [0.294963, 0.224776, 0.209326, -0.218974, -0.630855, -0.785979, -0.231199, -0.609909]
    torch.testing.assert_close(answers(**PAIR), torch.tensor(theirs), rtol=0, atol=1e-5)
    assert (answers(**PAIR, norm_groups=None) - torch.tensor(theirs)).abs().max() > 0.1


def test_guided_diffusion_with_four_heads():
    # openai/guided-diffusion 22e0df8, unet.py, UNetModel: 64 channels, channel_mult (1, 2), 1 block, attention at rates
    # 1 and 2, num_heads 4, scale-shift norm, residual resampling, 6 outputs.
    theirs = [0.093279, 0.089491, 0.153208, 0.302059, -0.049652, -0.189946, 0.383332, 0.332797]
    torch.testing.assert_close(answers(**GUIDED, num_heads=4, head_channels=0), torch.tensor(theirs), rtol=0, atol=1e-5)
    assert (answers(**GUIDED) - torch.tensor(theirs)).abs().max() > 0.01


def test_edm_adds_augmentation_labels_before_the_first_layer():
    # NVlabs/edm 008a4e5, training/networks.py, DhariwalUNet(8, 3, 3, 3, 9): 64 channels, [1, 2], 1 block, attention at
    # 4 pixels; labels one-hot, augmentation labels sin(0 ... 17).
    theirs = [-0.151322, -0.124762, 0.042731, 0.071287, 1.016388, -0.188747, -0.40178, 0.720495]
    augment = torch.sin(torch.arange(18.0)).reshape(2, 9)
    torch.testing.assert_close(answers(**EDM, augment=augment), torch.tensor(theirs), rtol=0, atol=1e-5)
    assert (answers(**EDM) - torch.tensor(theirs)).abs().max() > 0.1


@pytest.mark.parametrize("name", ["ddpm_cifar10", "adm_imagenet64"])
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"channels": 80, "head_channels": 0}, "^norm_groups 32 does not divide a width of 80; give a .* or null for"),
        ({"norm_groups": 0}, "^norm_groups is 0; give a whole number"),
        ({"num_heads": 5, "head_channels": 0}, "^num_heads 5 does not divide a width of "),
        ({"num_heads": -1, "head_channels": 0}, "^num_heads is -1; give 0"),
        ({"num_heads": 4, "head_channels": 64}, "^num_heads is 4 and head_channels 64.*; give one of them, and 0"),
    ],
)
def test_groups_and_heads_that_do_not_share_out_the_channels_are_refused(name, sizes, message):
    with torch.device("meta"), pytest.raises(UserError, match=message) as caught:
        create_backbone(name, **sizes)
    assert "\n" not in str(caught.value)
