from dataclasses import dataclass

import pytest
import torch

from denoisezoo.archs import (
    Backbone,
    BackboneConfig,
    Cost,
    Family,
    create_backbone,
    get_variant,
    list_denoisers,
    list_families,
)
from denoisezoo.archs.variants import replace_config
from denoisezoo.errors import UserError
from denoisezoo.registry import Registry

PUBLISHED = {
    "ddpm": ["ddpm_celeba64", "ddpm_cifar10", "ddpm_256"],
    "songunet": ["ddpmpp_cifar10", "ddpmpp_64", "ncsnpp_cifar10", "ncsnpp_64"],
    "adm": ["adm_imagenet64", "adm_imagenet256", "adm_imagenet512"],
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_published_names_are_registered(family):
    assert set(PUBLISHED[family]) <= set(list_denoisers(family=family))
    assert family in list_families()


@pytest.mark.parametrize("prefix", ["ddpm", "ddpmpp", "ncsnpp", "adm"])
def test_small_variants(prefix):
    tiny, digits, small = (get_variant(f"{prefix}_{size}") for size in ("tiny", "digits", "small32"))
    assert "tiny" in tiny.tags
    assert tiny.costs[-1].params < 100_000
    assert (digits.spec.in_channels, digits.spec.resolution) == (1, 16)
    assert 400_000 < digits.costs[-1].params < 1_200_000
    assert (small.spec.in_channels, small.spec.resolution) == (3, 32)
    assert 2_000_000 < small.costs[-1].params < 6_000_000


def test_patterns_match_in_natural_order():
    names = list_denoisers("adm_imagenet*")
    assert names == ["adm_imagenet64", "adm_imagenet256", "adm_imagenet512"]
    assert list_denoisers("ADM_IMAGENET64") == ["adm_imagenet64"]
    assert list_denoisers("no_such_*") == []
    assert list_families("so*") == ["songunet"]


def test_unknown_family_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown family 'ddpn'; did you mean ddpm"):
        list_denoisers(family="ddpn")


def test_unknown_name_offers_the_nearest():
    with pytest.raises(UserError, match=r"unknown denoiser 'ddpm_cifer10'; did you mean ddpm_cifar10 or .*shows all"):
        create_backbone("ddpm_cifer10")


def test_unknown_override_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown argument of ddpm_tiny 'chanels'; did you mean channels"):
        create_backbone("ddpm_tiny", chanels=16)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"channels": 8.5}, r"channels of ddpm_tiny is 8\.5; give int"),
        ({"channels": True}, "channels of ddpm_tiny is True; give int"),
        ({"dropout": "much"}, "dropout of ddpm_tiny is 'much'; give float"),
        ({"multipliers": 2}, "multipliers of ddpm_tiny is 2; give"),
        ({"attention": (4.5,)}, "attention of ddpm_tiny"),
    ],
)
def test_wrong_type(override, message):
    with pytest.raises(UserError, match=message):
        create_backbone("ddpm_tiny", **override)


def test_wrong_choice():
    with pytest.raises(UserError, match=r"features of ddpmpp_tiny is 'cosine'; give .*sinusoidal"):
        create_backbone("ddpmpp_tiny", features="cosine")


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("ddpm_tiny", {"resolution": 9}, r"resolution 9 cannot be halved 1 times; use a multiple of 2, such as 8"),
        ("ddpm_tiny", {"resolution": 0}, "resolution is 0"),
        ("ddpm_tiny", {"num_classes": -1}, "num_classes is -1"),
        ("ddpm_tiny", {"channels": 6}, "channels is 6; give a positive multiple of 4"),
        ("ddpm_tiny", {"multipliers": ()}, "multipliers is"),
        ("ddpm_tiny", {"multipliers": (1, 0)}, "multipliers is"),
        ("ddpm_tiny", {"blocks": 0}, "blocks is 0"),
        ("ddpm_tiny", {"dropout": 1.0}, "dropout is 1"),
        ("ncsnpp_tiny", {"taps": (1, 2, 1)}, "taps is"),
        ("adm_tiny", {"head_channels": 7}, "head_channels 7 does not divide a width of 16"),
        ("adm_tiny", {"head_channels": -1}, "head_channels is -1"),
    ],
)
def test_impossible_configuration(name, override, message):
    with pytest.raises(UserError, match=message):
        create_backbone(name, **override)


def test_overrides_reach_the_network():
    net = create_backbone("adm_tiny", multipliers=[1, 2, 2], num_classes=0, dropout=0)
    assert net.config.multipliers == (1.0, 2.0, 2.0)
    assert isinstance(net.config.dropout, float)
    assert net.spec.num_classes == 0
    assert get_variant("adm_tiny").spec.num_classes == 3


def test_largest_network_is_described_without_memory():
    with torch.device("meta"):
        net = create_backbone("adm_imagenet512")
    assert all(p.is_meta for p in net.parameters())


def test_duplicate_name_raises_and_names_both_modules():
    registry: Registry[int] = Registry("sampler")
    registry.add("heun", 1, "zoo.first")
    with pytest.raises(UserError, match=r"sampler 'heun' is registered twice, in zoo\.first and in zoo\.second"):
        registry.add("heun", 2, "zoo.second")
    assert registry["heun"] == 1


def test_duplicate_denoiser_raises():
    entry = get_variant("ddpm_tiny")
    with pytest.raises(UserError, match=r"'ddpm_tiny' is registered twice, in denoisezoo\.archs\.ddpm and in"):
        entry.family.variant("ddpm_tiny", entry.config, *entry.costs)
    assert get_variant("ddpm_tiny") is entry


@dataclass(frozen=True, kw_only=True)
class TwoEfforts(BackboneConfig):
    depth: int | None = None

    @property
    def efforts(self):
        return (0.5, 1.0)


def test_one_cost_per_effort():
    family = Family("two", Backbone, "Two", "Nobody", 2026, "0000.00000")
    with pytest.raises(UserError, match="two_a has 2 efforts and 1 costs"):
        family.variant("two_a", TwoEfforts(), Cost(1, 1))
    assert "two_a" not in list_denoisers()


def test_none_is_accepted_where_the_field_allows_it():
    assert replace_config(TwoEfforts(depth=3), {"depth": None}, "two").depth is None
    assert replace_config(TwoEfforts(), {"depth": 3}, "two").depth == 3
    with pytest.raises(UserError, match="resolution of two is None; give int"):
        replace_config(TwoEfforts(), {"resolution": None}, "two")
