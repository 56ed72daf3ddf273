"""The zoo: one file per family, found by discovery."""

from denoisezoo.archs.backbone import Backbone, BackboneConfig, Effort, ImageSpec
from denoisezoo.archs.variants import (
    Cost,
    Family,
    Variant,
    create_backbone,
    get_variant,
    list_denoisers,
    list_families,
)

__all__ = [
    "Backbone",
    "BackboneConfig",
    "Cost",
    "Effort",
    "Family",
    "ImageSpec",
    "Variant",
    "create_backbone",
    "get_variant",
    "list_denoisers",
    "list_families",
]
