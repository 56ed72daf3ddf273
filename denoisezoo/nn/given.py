"""What a network is told besides the noisy image and its noise level: one record, the same for every family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor


class Given(NamedTuple):
    """What a network is told; None where it is told nothing. As a tuple it is a pytree, so it compiles and exports.

    Attributes:
        label: Class labels (B,), int64; -1 for an image without one.
        image: Conditioning image (B, Cc, H, W).
        tokens: Context tokens (B, L, D), such as those of a text.
        tokens_mask: Which tokens there are (B, L), bool, where lengths differ; None where all are there.
        augment: Augmentation labels (B, A).
        until: Second time of a flow map (B,): where it ends. A denoiser is told a time s of its process, s <= t, and
            tells its network in the unit of c_noise; what lies below the process's t_min, such as 0, is t_min.
    """

    label: Tensor | None = None
    image: Tensor | None = None
    tokens: Tensor | None = None
    tokens_mask: Tensor | None = None
    augment: Tensor | None = None
    until: Tensor | None = None

    @classmethod
    def of(cls, batch: Mapping[str, Tensor]) -> Given:
        """What a batch of data tells: its "label", "cond" (the conditioning image), "tokens", ... where it has them."""
        names = cls._fields
        return cls(*(batch.get("cond" if name == "image" else name) for name in names))

    def take(self, index: Tensor | slice) -> Given:
        """What the images `index` of the batch are told."""
        return Given(*(None if value is None else value[index] for value in self))

    def averaged_to(self, x: Tensor) -> Given:
        """With the conditioning image as block means of the size of x (B, C, H, W), if it is so many times larger."""
        if self.image is None:
            return self
        factor = self.image.shape[-1] // x.shape[-1]
        if factor < 2 or self.image.shape[-2:] != (factor * x.shape[-2], factor * x.shape[-1]):
            return self
        return self._replace(image=F.avg_pool2d(self.image, factor))

    def times(self, scale: float) -> Given:
        """With the second time multiplied, for networks that multiply c_noise."""
        return self if self.until is None else self._replace(until=scale * self.until)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Given:
        """On a device, and with images, tokens and augmentation labels in a dtype; times keep their precision."""
        moved = [None if value is None else value.to(device) for value in self]
        given = Given(*moved)
        if dtype is None:
            return given
        parts = {name: getattr(given, name) for name in ("image", "tokens", "augment")}
        return given._replace(**{name: value.to(dtype) for name, value in parts.items() if value is not None})


NOTHING = Given()

# A named tuple is a pytree by itself; a name is what exported programs keep of it. There is no public function for it.
pytree._register_namedtuple(Given, serialized_type_name="denoisezoo.nn.given.Given")
