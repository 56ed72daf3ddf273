"""How one image of a source is decoded to pixels."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from denoisezoo.data.sources import ARRAY, ImageFiles
from denoisezoo.errors import UserError

DEEP_MODES = ("I", "F")
"""Pillow's modes of more than 8 bits, among them I;16; it would clip them."""
MODES = {1: "L", 3: "RGB"}
"""Pillow's modes of so many channels."""
SIZ = b"\xff\x4f\xff\x51"
"""Where the codestream of a JPEG 2000 begins (ISO 15444-1, A.5.1); 42 bytes on is the depth of its first component."""
PIXI = b"pixi"
"""The box of an AVIF with its depths (ISO 23008-12, 6.5.6): version and flags, number of channels, bits of each."""


class Decoder:
    """Reads images of a source as uint8 (C, resolution, resolution).

    Grey images become RGB by repetition and RGB ones grey by luma, as `channels` asks. Transparent pixels show white
    behind them, so that colours under full transparency, which no viewer shows, do not count. Images of more than 8
    bits per channel are refused.

    Args:
        source: Where they are.
        resolution: Height and width that they must have.
        channels: 1 or 3.
        resize: Cut the largest square from the middle and resize it (Lanczos), instead of refusing other sizes.
    """

    def __init__(self, source: ImageFiles, resolution: int, channels: int, resize: bool) -> None:
        self.source, self.resolution, self.channels, self.resize = source, resolution, channels, resize
        self.first_size: tuple[int, int] | None = None

    def __call__(self, name: str) -> Tensor:
        """Decode one image.

        Raises:
            UserError: It cannot be decoded, or has another size.
        """
        image = self._open(name)
        if self.resize:
            image = middle_square(image, self.resolution)
        else:
            self._check_size(name, image.size)
        pixels = torch.from_numpy(np.array(image))
        return pixels[None] if self.channels == 1 else pixels.permute(2, 0, 1)

    def size(self, name: str) -> tuple[int, int]:
        """Width and height of one image.

        Raises:
            UserError: It cannot be decoded.
        """
        return self._open(name).size

    def _open(self, name: str) -> Image.Image:
        try:
            content = self.source.read(name)
            if name.endswith(ARRAY):
                return self._of_array(name, np.load(io.BytesIO(content), allow_pickle=False))
            with Image.open(io.BytesIO(content)) as file:
                deep = is_deep(file, content)
                image = opaque(ImageOps.exif_transpose(file)).convert(MODES[self.channels])
        except UserError:
            raise
        except Exception as error:  # decoders and zlib raise nearly anything on damaged bytes
            raise UserError(
                f"{name} in {self.source.path} cannot be read as an image ({type(error).__name__})", "mend or remove it"
            ) from error
        if deep:
            raise UserError(f"{name} in {self.source.path} has more than 8 bits per channel", "convert it to 8 bits")
        return image

    def _of_array(self, name: str, array: np.ndarray) -> Image.Image:
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and len(array) not in (1, 3)):
            what = f"{name} in {self.source.path} is an array of {array.dtype} {array.shape}"
            raise UserError(what, "give uint8 (3, H, W), (1, H, W) or (H, W); latents are the data set `latents`")
        image = Image.fromarray(array if array.ndim == 2 else array[0] if len(array) == 1 else array.transpose(1, 2, 0))
        return image.convert(MODES[self.channels])

    def _check_size(self, name: str, size: tuple[int, int]) -> None:
        if size == (self.resolution, self.resolution):
            return
        first = self.source.names[0]
        if self.first_size is None:
            self.first_size = self._open(first).size
        if self.first_size != size:
            raise UserError(
                f"images in {self.source.path} differ in size: {first} is {_times(self.first_size)} and {name} is "
                f"{_times(size)}",
                "give `data.resize=true` to cut and resize them",
            )
        cure = f"set resolution to {size[0]}, or give" if size[0] == size[1] else "give"
        raise UserError(
            f"images in {self.source.path} are {_times(size)} ({name}), and resolution is {self.resolution}",
            f"{cure} `data.resize=true` to cut and resize them",
        )


def middle_square(image: Image.Image, side: int) -> Image.Image:
    """The largest square in the middle of an image, resized (Lanczos); an image of that size as it is."""
    if image.size == (side, side):
        return image
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    # Cut first: the filter of ImageOps.fit reaches over the edge of its box.
    square = image.crop((left, top, left + edge, top + edge))
    return square.resize((side, side), Image.Resampling.LANCZOS)


def pixels_of_arrays(arrays: np.ndarray, resolution: int, channels: int, resize: bool, what: str) -> Tensor:
    """uint8 (N, channels, resolution, resolution) of images that are there as one array, by the rules of `Decoder`.

    Args:
        arrays: (N, H, W) or (N, H, W, C) with C of 1 or 3, uint8.
        resolution: Height and width that they must have.
        channels: 1 or 3.
        resize: Cut and resize them instead of refusing other sizes.
        what: What errors call the array.

    Raises:
        UserError: An array of another shape or type, or images of another size.
    """
    if arrays.dtype != np.uint8 or arrays.ndim not in (3, 4) or (arrays.ndim == 4 and arrays.shape[3] not in (1, 3)):
        raise UserError(f"{what} is {arrays.dtype} {arrays.shape}", "give images, uint8 (N, H, W, 3) or (N, H, W)")
    arrays = arrays.reshape(*arrays.shape[:3], -1)
    height, width, C = arrays.shape[1:]
    if (height, width) != (resolution, resolution):
        if not resize:
            cure = f"set resolution to {width}, or give" if height == width else "give"
            found = f"images of {what} are {_times((width, height))}, and resolution is {resolution}"
            raise UserError(found, f"{cure} `data.resize=true` to cut and resize them")
    elif channels == C:
        return torch.from_numpy(np.ascontiguousarray(arrays.transpose(0, 3, 1, 2)))
    pixels = torch.empty(len(arrays), channels, resolution, resolution, dtype=torch.uint8)
    for i, array in enumerate(arrays):
        image = Image.fromarray(array[..., 0] if C == 1 else array).convert(MODES[channels])
        fitted = torch.from_numpy(np.array(middle_square(image, resolution)))
        pixels[i] = fitted[None] if channels == 1 else fitted.permute(2, 0, 1)
    return pixels


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def is_deep(file: Image.Image, content: bytes) -> bool:
    """Whether an image that has been opened, but not loaded, has more than 8 bits per channel.

    Pillow cuts colours to 8 bits while it loads them, and its mode does not tell.
    """
    if file.mode.startswith(DEEP_MODES):
        return True
    if file.format == "JPEG2000":
        place = content.find(SIZ) + 42
        return (content[place] & 0x7F) + 1 > 8
    if file.format == "AVIF":
        place = content.find(PIXI)
        return place >= 0 and max(content[place + 9 : place + 9 + content[place + 8]]) > 8
    for tile in getattr(file, "tile", ()):
        arguments = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if any(isinstance(arg, str) and ";16" in arg for arg in arguments):
            return True
        if tile.codec_name.startswith("ppm") and arguments[-1] > 255:  # the largest value
            return True
    return False


def opaque(image: Image.Image) -> Image.Image:
    """An image as it looks on white; one without transparency as it is."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
