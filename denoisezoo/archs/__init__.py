"""The zoo: one file per family, found by discovery."""

from denoisezoo.archs.backbone import FORMAT, Backbone, BackboneConfig, Effort, ImageSpec, without_pretrained_weights
from denoisezoo.archs.compiling import allow_programs, compile_network
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
    "FORMAT",
    "Backbone",
    "BackboneConfig",
    "Cost",
    "Effort",
    "Family",
    "ImageSpec",
    "Variant",
    "allow_programs",
    "compile_network",
    "create_backbone",
    "get_variant",
    "list_denoisers",
    "list_families",
    "without_pretrained_weights",
]
