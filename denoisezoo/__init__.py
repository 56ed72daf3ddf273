"""A zoo of efficient denoisers for diffusion models, compared on equal terms.

A *backbone* F is a raw network; a *process* says how an image is destroyed, u_t = A_t u_0 + R_t eps; a *denoiser*
D(u_t, t) ~ E[u_0 given u_t] is a backbone with the preconditioning for one process; a *sampler* walks the reverse
process by calling D; a *plan* says how much of the backbone to use at each noise level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from denoisezoo.archs import create_backbone, list_denoisers
    from denoisezoo.diffusion import create_denoiser

__all__ = ["__version__", "create_backbone", "create_denoiser", "list_denoisers"]


def __getattr__(name: str) -> Any:
    """Import the zoo on first use, so that `denoisezoo --help` does not wait for torch."""
    if name in {"create_backbone", "list_denoisers"}:
        from denoisezoo import archs

        return getattr(archs, name)
    if name == "create_denoiser":
        from denoisezoo import diffusion

        return diffusion.create_denoiser
    raise AttributeError(f"module 'denoisezoo' has no attribute {name!r}")
