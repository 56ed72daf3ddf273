"""Coefficients of diagonal processes, one per sample (B,) or maps (B, C or 1, H or 1, W or 1), over their states."""

from __future__ import annotations

from torch import Tensor


def over_images(coefficient: Tensor, like: Tensor) -> Tensor:
    """A coefficient in the dtype of `like` and shaped to broadcast over it.

    Args:
        coefficient: One per sample (B,), or a map (B, C or 1, H or 1, W or 1), whose top left serves a small state,
            and whose first channels serve what has fewer.
        like: States (B, C, H, W).
    """
    if coefficient.ndim == 1:
        return coefficient.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
    return cropped_to(like, coefficient).to(like.dtype)


def cropped_to(like: Tensor, coefficient: Tensor) -> Tensor:
    """That part of a coefficient, (B,) or a map, that belongs to states (B, C, H, W)."""
    if coefficient.ndim == 1:
        return coefficient
    return coefficient[:, : like.shape[1], : like.shape[-2], : like.shape[-1]]


def aligned(*coefficients: Tensor) -> list[Tensor]:
    """Coefficients (B,) and maps (B, C or 1, H or 1, W or 1) in shapes that broadcast against each other."""
    if all(c.ndim == 1 for c in coefficients):
        return list(coefficients)
    return [c.reshape(-1, 1, 1, 1) if c.ndim == 1 else c for c in coefficients]
