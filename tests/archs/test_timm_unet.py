"""Backbones of timm as encoders: which serve, what becomes of their norms, and pretrained weights from a file."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from denoisezoo.archs import create_backbone, without_pretrained_weights
from denoisezoo.archs.timm_unet import FrozenNorm
from denoisezoo.errors import UserError

TINY = {"features": 3, "widths": (8, 8, 8), "embedding": 8, "noise_features": 8, "num_classes": 0, "cond_channels": 0}


def build(encoder, resolution=32, **options):
    changes = TINY | {"augment_dim": 0, "patch_size": 0, "encoder": encoder, "resolution": resolution}
    return create_backbone("timm_unet_tiny", **changes | options)


# Encoder -> reductions of its features of 64 pixels, and what it takes for norms; docs/timm.md has all families.
WORKING = {
    "convnext_zepto_rms": ([4, 8, 16], "own"),
    "vgg11": ([1, 2, 4], "own"),
    "pvt_v2_b0": ([4, 8, 16], "own"),
    "vit_tiny_patch16_224": ([16, 16, 16], "own"),
    "test_mambaout": ([4, 8, 16], "own"),
    "resnet10t": ([2, 4, 8], "group"),
    "mobilenetv3_small_050": ([2, 4, 8], "group"),
    "tf_efficientnet_lite0": ([2, 4, 8], "frozen"),
}


@pytest.mark.parametrize("encoder", list(WORKING))
def test_encoders_of_many_kinds(encoder):
    reductions, norm = WORKING[encoder]
    with torch.device("meta"):
        net = build(encoder, 64, norm=norm).eval()
        y = net(torch.empty(2, 3, 64, 64), torch.empty(2))
    assert y.shape == (2, 3, 64, 64)
    assert net.encoder.reductions == reductions
    assert (net.stem is None) == (1 in reductions)
    assert not any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in net.modules())


def test_untrained_output_is_zero():
    net = build("test_convnext")
    assert not net(torch.randn(2, 3, 32, 32), torch.rand(2)).any()


@pytest.mark.parametrize("norm", ["group", "frozen"])
def test_no_image_of_a_batch_sees_another(norm):
    """In training mode, too, where a batch norm would."""
    torch.manual_seed(0)
    net = build("resnet10t", norm=norm).train()
    torch.nn.init.normal_(net.head.weight)
    x, c_noise = torch.randn(3, 3, 32, 32), torch.rand(3)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    torch.testing.assert_close(net(x, c_noise)[:1], net(x[:1], c_noise[:1]), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_pretrained_weights_from_a_file(tmp_path, suffix):
    """Features are those of the whole network of timm."""
    torch.manual_seed(0)
    whole = timm.create_model("test_efficientnet", in_chans=4).eval()
    for module in whole.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
    path = tmp_path / f"weights.{suffix}"
    save_file(whole.state_dict(), path) if suffix == "safetensors" else torch.save(whole.state_dict(), path)
    net = build("test_efficientnet", norm="frozen", weights=str(path)).eval()
    x = torch.randn(1, 4, 32, 32)
    _, expected = whole.forward_intermediates(x)
    for found, feature in zip(net.encoder(x), expected, strict=False):
        torch.testing.assert_close(found, feature, rtol=1e-4, atol=1e-4)
    frozen = [module for module in net.modules() if isinstance(module, FrozenNorm)]
    assert frozen
    assert all(module.weight.requires_grad and not module.mean.requires_grad for module in frozen)
    path.unlink()  # a checkpoint brings all weights: the file is not asked for
    with without_pretrained_weights():
        other = build("test_efficientnet", norm="frozen", weights=str(path)).eval()
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x[:, :3], torch.ones(1)), net(x[:, :3], torch.ones(1)))
    with pytest.raises(UserError, match=r"weights.* is no file"):
        build("test_efficientnet", norm="frozen", weights=str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "convnextv2_ato"}, r"unknown timm encoder 'convnextv2_ato'; did you mean convnextv2_atto"),
        ({"encoder": "hf-hub:timm/resnet18"}, "unknown timm encoder"),
        ({"encoder": "resnet18"}, r"10 batch norms, which mix noise levels; give norm group"),
        ({"encoder": "levit_128s", "norm": "group", "resolution": 64}, "as a BatchNorm1d|of which features 3"),
        ({"encoder": "inception_v3", "resolution": 64}, "gives no features of images of 64 pixels"),
        ({"encoder": "crossvit_tiny_240", "features": 2, "resolution": 64}, "makes maps of 20 pixels"),
        ({"encoder": "vgg11", "features": 9}, "of which features 9 cannot be taken"),
        ({"encoder": "test_vit", "patch_size": 7}, "gives no features of images of 32 pixels"),
        ({"encoder": "test_convnext", "widths": ()}, "widths is"),
    ],
)
def test_mistakes_are_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught, torch.device("meta"):
        build(**options)
    assert "\n" not in str(caught.value)
