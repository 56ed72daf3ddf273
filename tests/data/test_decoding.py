"""What a picture file becomes: depth and transparency, which Pillow passes over in silence."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features

from denoisezoo.data import ImageFolder
from denoisezoo.errors import UserError

GREY = (np.arange(256).reshape(16, 16) * 257).astype(">u2")
"""16 bits, all values."""


def images(folder, content: bytes, suffix: str, channels: int = 3) -> torch.Tensor:
    folder.mkdir(exist_ok=True)
    (folder / f"x.{suffix}").write_bytes(content)
    return ImageFolder(str(folder), resolution=16, batch_size=1, channels=channels).images()


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png16(colour_type: int, samples: int) -> bytes:
    """A PNG of 16 bits per sample (PNG specification, 11.2), which Pillow cannot write in colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.repeat(samples).tobytes() for row in GREY)
    head = struct.pack(">IIBBBBB", 16, 16, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff16(samples: int) -> bytes:
    """An uncompressed big-endian TIFF of 16 bits per sample (TIFF 6.0)."""
    pixels = GREY.repeat(samples, axis=1).tobytes()
    depths = 8 + len(pixels)
    fields = [(256, 3, 1, 16 << 16), (257, 3, 1, 16 << 16), (258, 3, samples, depths if samples > 2 else 16 << 16)]
    fields += [(259, 3, 1, 1 << 16), (262, 3, 1, (2 if samples > 1 else 1) << 16), (273, 4, 1, 8)]
    fields += [(277, 3, 1, samples << 16), (278, 3, 1, 16 << 16), (279, 4, 1, len(pixels))]
    directory = struct.pack(">H", len(fields)) + b"".join(struct.pack(">HHII", *field) for field in fields)
    return struct.pack(">2sHI", b"MM", 42, depths + 6) + pixels + struct.pack(">3H", 16, 16, 16) + directory + bytes(4)


def jp2(depth: int) -> bytes:
    """An RGB image whose header says a depth; Pillow writes 8."""
    content = bytearray(saved(Image.new("RGB", (16, 16)), "JPEG2000"))
    place = content.find(b"\xff\x4f\xff\x51") + 42
    content[place] = content[place + 3] = content[place + 6] = depth - 1
    return bytes(content)


def avif10() -> bytes:
    """An image whose boxes say 10 bits, both pixi and av1C (AV1-ISOBMFF, 2.3.3: high_bitdepth); Pillow writes 8."""
    content = bytearray(saved(Image.new("RGB", (16, 16)), "AVIF"))
    pixi, av1c = content.find(b"pixi"), content.find(b"av1C")
    content[pixi + 9 : pixi + 12] = bytes([10] * 3)
    content[av1c + 6] |= 0x40
    return bytes(content)


PNM = f"16 16 {2**16 - 1}\n".encode()
DEEP = {
    "grey.png": lambda: png16(0, 1),
    "rgb.png": lambda: png16(2, 3),
    "grey_alpha.png": lambda: png16(4, 2),
    "rgba.png": lambda: png16(6, 4),
    "grey.tif": lambda: tiff16(1),
    "rgb.tif": lambda: tiff16(3),
    "grey.pgm": lambda: b"P5 " + PNM + GREY.tobytes(),
    "rgb.ppm": lambda: b"P6 " + PNM + GREY.repeat(3, axis=1).tobytes(),
    "float.tif": lambda: saved(Image.new("F", (16, 16)), "TIFF"),
    "rgb.jp2": lambda: jp2(12),
    "rgb.avif": avif10,
}


def needs(suffix: str) -> None:
    if suffix in {"jp2", "avif"} and not features.check({"jp2": "jpg_2000", "avif": "avif"}[suffix]):
        pytest.skip(f"this Pillow reads no {suffix}")


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("channels", [1, 3])
def test_more_than_8_bits_are_refused_in_grey_and_in_colour(tmp_path, name, channels):
    suffix = name.partition(".")[2]
    needs(suffix)
    with pytest.raises(UserError, match=rf"x.{suffix} in .* has more than 8 bits per channel; convert it to 8 bits"):
        images(tmp_path / "x", DEEP[name](), suffix, channels)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000", "AVIF", "BMP", "GIF", "WEBP", "JPEG"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_8_bits_are_taken_in_all_formats(tmp_path, kind, mode):
    needs({"JPEG2000": "jp2", "AVIF": "avif"}.get(kind, ""))
    found = images(tmp_path / "x", saved(Image.new(mode, (16, 16), "white"), kind), "png")
    assert found.shape == (1, 3, 16, 16)
    assert int(found.min()) >= 250


def test_a_small_largest_value_is_no_depth(tmp_path):
    assert images(tmp_path / "x", b"P6 16 16 100\n" + bytes([100] * 768), "ppm").unique().tolist() == [255]


def transparent(colour: tuple[int, int, int], kind: str) -> bytes:
    """A picture with an opaque spot of (200, 60, 30), a half-transparent one, and `colour` hidden under the rest."""
    image = Image.new("RGBA", (16, 16), (*colour, 0))
    image.putpixel((4, 4), (200, 60, 30, 255))
    image.putpixel((5, 5), (0, 0, 0, 51))
    return saved(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_colours_that_no_viewer_shows_do_not_count(tmp_path, kind):
    red, black = (images(tmp_path / "x", transparent(c, kind), kind.lower()) for c in ((255, 0, 0), (0, 0, 0)))
    assert torch.equal(red, black)
    assert red[0, :, 0, 0].tolist() == [255, 255, 255]  # white behind
    assert red[0, :, 4, 4].tolist() == [200, 60, 30]
    assert red[0, :, 5, 5].tolist() == [204] * 3  # 255 - 51: black through a fifth


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_one_colour_that_stands_for_transparency(tmp_path, mode):
    content = saved(Image.new(mode, (16, 16), 0), "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert images(tmp_path / "x", content, "png").unique().tolist() == [255]
