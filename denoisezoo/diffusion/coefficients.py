"""Coefficients over image-shaped states: numbers (B,) or maps (B, C or 1, H or 1, W or 1) of diagonal processes.

And the algebra of blocks, (k, k) matrices per coefficient, as tensors (B or 1, k, k, C or 1, H or 1, W or 1).

k is 1, or 2 for a state that stacks position and velocity along its channels. Everything here is elementwise in the
image axes, so it stays exact under autocast, and blocks of different maps broadcast against each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from denoisezoo.nn.transfer import to_device


def beside(coefficient: Tensor, like: Tensor) -> Tensor:
    """A coefficient in the dtype of `like` and where it can be its factor, without a wait.

    From the CPU, where times and most coefficients are, one number goes along with the operators that need it, as a
    tensor (), and several are copied.
    """
    coefficient = coefficient.to(like.dtype)
    if coefficient.device == like.device:
        return coefficient
    return coefficient.reshape(()) if coefficient.numel() == 1 else to_device(coefficient, like.device)


def over_images(coefficient: Tensor, like: Tensor) -> Tensor:
    """A coefficient in the dtype of `like`, on its device or as one number, and shaped to broadcast over it.

    Args:
        coefficient: One per sample (B,), or a map (B, C or 1, H or 1, W or 1), whose top left serves a small state,
            and whose first channels serve what has fewer.
        like: States (B, C, H, W).
    """
    if coefficient.ndim == 1:
        return beside(coefficient.reshape(-1, *[1] * (like.ndim - 1)), like)
    return beside(cropped_to(like, coefficient), like)


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


def apply_blocks(blocks: Tensor, u: Tensor) -> Tensor:
    """Multiply an image-shaped state by (k, k) blocks.

    Args:
        blocks: (B or 1, k, k, C or 1, H or 1, W or 1). A map larger than the state is cropped to its top left, where
            the coefficients lie that are left when others have been dropped.
        u: State (B, k*C, H, W).

    Returns:
        (B, k*C, H, W), in the dtype of `u`.
    """
    k = blocks.shape[1]
    blocks = blocks[..., : u.shape[-2], : u.shape[-1]]
    if k == 1:
        return beside(blocks[:, 0, 0], u) * u
    blocks = beside(blocks, u)
    return (blocks * u.unflatten(1, (k, -1))[:, None]).sum(2).flatten(1, 2)


def scalar_blocks(coefficient: Tensor) -> Tensor:
    """A scalar per sample (B,) as blocks (B, 1, 1, 1, 1, 1)."""
    return coefficient.reshape(-1, 1, 1, 1, 1, 1)


def map_blocks(coefficient: Tensor) -> Tensor:
    """A scalar (B,) or a map (B, C or 1, H or 1, W or 1) per sample as blocks of k = 1."""
    return scalar_blocks(coefficient) if coefficient.ndim == 1 else coefficient[:, None, None]


def stack_blocks(rows: list[list[Tensor]]) -> Tensor:
    """Blocks (B, k, k, 1, 1, 1) of k x k entries, each (B,)."""
    return torch.stack([torch.stack(row, -1) for row in rows], -2)[..., None, None, None]


def product(a: Tensor, b: Tensor) -> Tensor:
    """Block by block a b. As sums: to matrix products, which cost counters look for, such small ones are a detour."""
    return a * b if a.shape[1] == 1 else (a[:, :, :, None] * b[:, None]).sum(2)


def transpose(a: Tensor) -> Tensor:
    """Block by block a^T."""
    return a.transpose(1, 2)


def inverse(a: Tensor) -> Tensor:
    """Block by block a^-1, k is 1 or 2; infinite where a block of k = 1 is zero.

    By Cramer's rule: `torch.linalg.inv` has to look for failures, for which the host would wait.
    """
    if a.shape[1] == 1:
        return 1 / a
    adjugate = [[a[:, 1, 1], -a[:, 0, 1]], [-a[:, 1, 0], a[:, 0, 0]]]
    det = a[:, 0, 0] * a[:, 1, 1] - a[:, 0, 1] * a[:, 1, 0]
    return torch.stack([torch.stack(row, 1) for row in adjugate], 1) / det[:, None, None]


def square_root(a: Tensor) -> Tensor:
    """The symmetric root of positive semi-definite blocks, which may be singular; k is 1 or 2.

    For k = 2 by Cayley and Hamilton: sqrt(A) = (A + sqrt(det A) I) / sqrt(tr A + 2 sqrt(det A)).
    """
    if a.shape[1] == 1:
        return a.clamp(min=0).sqrt()
    root = (a[:, 0, 0] * a[:, 1, 1] - a[:, 0, 1] * a[:, 1, 0]).clamp(min=0).sqrt()[:, None, None]
    trace = (a[:, 0, 0] + a[:, 1, 1])[:, None, None]
    scale = (trace + 2 * root).clamp(min=torch.finfo(a.dtype).tiny).sqrt()
    return (a + root * identity_like(a)) / scale


def identity_like(a: Tensor) -> Tensor:
    """Identity blocks (1, k, k, 1, 1, 1) for blocks `a`."""
    return torch.eye(a.shape[1], dtype=a.dtype, device=a.device)[None, :, :, None, None, None]
