"""Which families of timm serve as the encoder of `timm_unet`: one small member of each, on the meta device.

    python benchmarks/timm_families.py > docs/timm_table.md

takes some minutes and writes a table: works with the norms that it has, works with group norms in the place of batch
norms, or what it raises.
"""

from __future__ import annotations

import warnings

import timm
import torch

from denoisezoo.archs import create_backbone
from denoisezoo.errors import UserError

RESOLUTION = 64
SMALL = ["zepto", "atto", "femto", "pico", "nano", "xxs", "xx_small", "xxtiny", "xs_", "tiny", "_050", "_s0", "_b0"]
SMALL += ["_m0", "_m1", "small", "18"]
"""Parts of names, smallest network first."""


def smallest(family: str) -> str:
    """The member of a module of timm whose name sounds smallest."""
    names = timm.list_models(module=family)
    plain = [name for name in names if not name.startswith("test_")]
    return min(plain, key=lambda n: (min([i for i, s in enumerate(SMALL) if s in n] or [99]), len(n), n))


def verdict(name: str) -> tuple[str, str]:
    """(status, details) of an encoder."""
    refused = ""
    for norm in ("own", "group"):
        try:
            with torch.device("meta"), torch.no_grad():
                net = create_backbone("timm_unet_vgg11", encoder=name, norm=norm, resolution=RESOLUTION).eval()
                net(torch.empty(1, 3, RESOLUTION, RESOLUTION), torch.empty(1))
        except UserError as error:
            refused = error.what
            if "batch norms" not in refused or norm == "group":
                return "no", refused
        else:
            reductions = ", ".join(map(str, net.encoder.reductions))
            millions = sum(p.numel() for p in net.encoder.parameters()) / 1e6
            return {"own": "yes", "group": "norm group"}[norm], f"1/{reductions}; {millions:.1f} M"
    return "no", refused


def main() -> None:
    """Print the table."""
    warnings.filterwarnings("ignore")
    print("| family | tried | works | feature maps and parameters of the encoder, or what is wrong |")
    print("|---|---|---|---|")
    for family in timm.list_modules():
        name = smallest(family)
        print(f"| `{family}` | `{name}` | {' | '.join(verdict(name))} |", flush=True)


if __name__ == "__main__":
    main()
