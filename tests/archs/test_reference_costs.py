"""Parameters and multiply-adds against those measured on the authors' own code."""

import pytest
import torch

from denoisezoo.archs import create_backbone, get_variant
from denoisezoo.nn.given import Given
from denoisezoo.profiling.counting import count

SONG = {"multipliers": (1, 2, 2, 2), "augment_dim": 0}
IMAGES = {"in_channels": 3, "out_channels": 3}
SIX_TO_THREE = 9 * 192 * 3  # weights of the last convolution that three output channels do without

# name, overrides, parameters, multiply-adds, those of attention, multiply-adds that we save at the same numbers:
# the authors' box filter is a depthwise convolution, ours is pooling and repetition.
REFERENCE = [
    ("ddpm_cifar10", {}, 35_746_307, 6_221_856_768, 167_903_232, 0),
    ("ddpm_256", {}, 113_673_219, 248_513_757_184, 339_738_624, 0),
    ("ddpmpp_cifar10", {}, 55_733_891, 21_191_525_504, 169_869_312, 1_310_720),
    ("ddpmpp_cifar10", {"num_classes": 10}, 55_735_299, 21_191_526_784, 169_869_312, 1_310_720),
    ("ddpmpp_cifar10", SONG, 61_804_419, 10_847_649_792, 167_903_232, 1_114_112),
    ("ncsnpp_cifar10", SONG, 62_758_787, 11_010_438_656, 167_903_232, 0),
    ("ncsnpp_64", {}, 62_761_091, 42_429_824_768, 169_869_312, 0),
    ("adm_imagenet64", {}, 295_904_454, 109_678_018_560, 6_215_958_528, 0),
    ("adm_imagenet64", {"out_channels": 3}, 295_899_267, 109_678_018_560 - SIX_TO_THREE * 4096, 6_215_958_528, 0),
    ("adm_imagenet256", {}, 553_838_086, 1_119_832_768_512, 6_090_129_408, 0),
    ("adm_imagenet256", {"num_classes": 0}, 552_814_086, 1_119_832_768_512, 6_090_129_408, 0),
    ("edm2_xxs", {}, 31_309_029, 11_346_257_920, 192_937_984, 1_228_800),
    ("edm2_xs", {}, 124_713_253, 44_953_718_784, 385_875_968, 2_457_600),
    ("edm2_xs", {"num_classes": 0}, 124_201_253, 44_953_206_784, 385_875_968, 2_457_600),
    ("edm2_xs", IMAGES, 124_710_949, 44_944_281_600, 385_875_968, 2_457_600),
    ("edm2_s", {}, 280_212_837, 100_822_382_592, 578_813_952, 3_686_400),
    ("edm2_s", IMAGES, 280_209_381, 100_808_226_816, 578_813_952, 3_686_400),
    ("edm2_m", {}, 497_807_781, 178_952_249_344, 771_751_936, 4_915_200),
    ("edm2_m", IMAGES, 497_803_173, 178_933_374_976, 771_751_936, 4_915_200),
    ("edm2_l", {}, 777_498_085, 279_343_319_040, 964_689_920, 6_144_000),
    ("edm2_l", IMAGES, 777_492_325, 279_319_726_080, 964_689_920, 6_144_000),
    ("edm2_xl", {}, 1_119_283_749, 401_995_591_680, 1_157_627_904, 7_372_800),
    ("edm2_xl", IMAGES, 1_119_276_837, 401_967_280_128, 1_157_627_904, 7_372_800),
    ("edm2_xxl", {}, 1_523_164_773, 546_909_067_264, 1_350_565_888, 8_601_600),
]


def counted(name, **overrides):
    """A network without weights, and the counts of one call."""
    with torch.device("meta"):
        net = create_backbone(name, **overrides).eval()
        spec = net.spec
        x, c_noise = torch.empty(1, spec.in_channels, spec.resolution, spec.resolution), torch.empty(1)
        label = torch.zeros(1, dtype=torch.int64) if spec.num_classes else None
        augment = torch.empty(1, spec.augment_dim) if spec.augment_dim else None
        return net, count(lambda: net(x, c_noise, Given(label=label, augment=augment)))


@pytest.mark.parametrize(("name", "overrides", "params", "macs", "attention", "saved"), REFERENCE)
def test_reference_costs(name, overrides, params, macs, attention, saved):
    net, counts = counted(name, **overrides)
    assert sum(p.numel() for p in net.parameters()) == params
    assert counts.macs == macs - saved
    assert counts.macs_attention == attention
    assert saved < 0.001 * macs


def test_registered_costs_are_those_of_the_references():
    for name, overrides, params, macs, _, saved in REFERENCE:
        if not overrides:
            assert (get_variant(name).costs[-1].params, get_variant(name).costs[-1].macs) == (params, macs - saved)


@pytest.mark.parametrize(
    ("name", "macs", "printed"), [("ddpm_cifar10", 6_065_456_000, 6.1e9), ("ddpm_256", 248_691_174_144, 248.7e9)]
)
def test_published_figures_by_the_rule_of_diff_pruning(name, macs, printed):
    """The sheet has the exact sums of that rule, and what the paper (arXiv 2305.10924, tables 1 and 3) prints."""
    _, counts = counted(name)
    assert counts.macs_diff_pruning == macs
    assert macs == pytest.approx(printed, rel=0.01)


# Millions of parameters and thousand millions of multiply-adds of each stage, as the sheet rounds what was measured on
# the authors' code (arXiv 2207.09786); of all parameters, of the mean call, and vanilla's call over that.
MSDIFF = {
    "multiscale_128": ([(31.29, 28.7), (27.01, 8.5), (18.28, 2.4), (26.28, 2.3)], 102.87, 10.5, 7.1),
    "multiscale_128_deep": ([(103.88, 74.2), (51.14, 17.8), (20.52, 4.0), (16.99, 1.5)], 192.53, 24.4, 3.0),
    "vanilla_128": ([(103.88, 74.2)], 103.88, 74.2, 1.0),
}


@pytest.mark.parametrize("name", list(MSDIFF))
def test_every_stage_of_msdiff_costs_what_the_authors_does(name):
    """Equal in every digit that there is, which for 74.2, 28.7 and 17.8 is within 0.3 %."""
    stages, params, mean, ratio = MSDIFF[name]
    with torch.device("meta"):
        net = create_backbone(name).eval()
    found = []
    for stage, (millions, giga) in zip(net.stages, stages, strict=True):
        side = stage.spec.resolution
        x = torch.empty(1, 3, side, side, device="meta")
        found.append(count(lambda stage=stage, x=x: stage(x, torch.empty(1, device="meta"))).macs / 1e9)
        assert round(sum(p.numel() for p in stage.parameters()) / 1e6, 2) == millions
        assert round(found[-1], 1) == giga
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == params
    assert round(sum(found) / len(found), 1) == mean
    assert round(get_variant("vanilla_128").costs[-1].macs / 1e9 / (sum(found) / len(found)), 1) == ratio


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        *[("ddpm_pair_160", 43.48), ("ddpm_pair_64", 28.75), ("ddpm_fast_256", 113.67)],
        *[("udpm_cifar10", 57.74), ("udpm_64", 65.41)],
    ],
)
def test_published_sizes_of_conditional_and_few_step_networks(name, millions):
    """arXiv 2111.13606, 2405.14802 and 2305.16269; the sheets' counts of the official networks."""
    with torch.device("meta"):
        net = create_backbone(name)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == millions


def test_conditional_sizes_by_hand():
    """What a channel less costs: 9 weights for each of the stem's outputs, or of the head's inputs, and a bias."""
    params = {name: get_variant(name).costs[-1].params for name in ("ddpm_256", "ddpm_fast_256", "ddpm_pair_160")}
    assert params["ddpm_fast_256"] == params["ddpm_256"] - 9 * 128 - 2 * (9 * 128 + 1)
    assert get_variant("ddpm_pair_160_clean").costs[-1].params == params["ddpm_pair_160"] - 3 * (9 * 96 + 1)
