"""One photograph in, `size` x `size` bytes per channel out."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil, floor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.compiled import compiled_loops
from data.dataset import U8
from data.parallel import Budget
from data.pillow_memory import pixels
from spec.language import Storage

VERSION = 3
"""Raised whenever the same photograph would give other bytes; part of the cache's key."""
MAX_PIXELS = 89_478_485
"""Pillow's threshold for warning of a decompression bomb: a quarter of a GiB of RGB. Here it is the limit."""
MAX_SIDE = 65_535
"""JPEG's own limit (16 bits), here for PNG too: a filter as long as the side takes memory."""
MEMORY = 640 << 20
"""Bytes that all images being decoded at a time may take together; an image that needs more alone is refused."""
MODES = {1: "L", 3: "RGB"}
"""Pillow's mode for each number of channels."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif")

_BILINEAR = Image.Resampling.BILINEAR
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each value of EXIF's tag Orientation (CIPA DC-008, 4.6.4 A). Other values say nothing."""
_BYTES_A_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}
"""What Pillow keeps a pixel in; 4 in all other modes, RGB among them."""
_COEFFICIENT_BYTES = 2
"""What libjpeg keeps a sample of a JPEG in that comes in several scans."""
_PIXELS_A_BYTE = 256
"""A Huffman-coded block of 64 pixels takes two bits at least: one for its mean and one for the end."""
_REDUCED = 1.5
"""So many pixels of what is decoded for one of what is kept, at least, if a JPEG is decoded reduced."""
_AT_A_TIME = 1 << 24
"""Pixels converted and filtered at a time, so that a large picture is held once and not three times."""
_budget = Budget(MEMORY)


class ImageError(Exception):
    """A file is no readable image; the message is the reason."""


def read_image(source: Path | BinaryIO, storage: Storage, channels: int) -> U8:
    """The image (one of FORMATS) at a path or in an open file, prepared: uint8 (size, size, channels), RGB order.

    Raises ImageError with a reason if it is not a regular file, none of FORMATS (whatever its name says),
    truncated, damaged, larger than MAX_PIXELS or MAX_SIDE, or not to be decoded within MEMORY.
    """
    return read_noted(source, storage, channels)[0]


def read_noted(source: Path | BinaryIO, storage: Storage, channels: int) -> tuple[U8, tuple[str, ...]]:
    """:func:`read_image`, and what was out of the ordinary, in words of :func:`remarks`."""
    with reasons():
        if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):
            raise ImageError("not a regular file")
        with Image.open(source, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
                raise ImageError(f"{width} x {height} pixels, of more than {MAX_PIXELS:,} or a side over {MAX_SIDE:,}")
            if (needed := _memory(image)) > MEMORY:
                raise ImageError(f"{width} x {height} pixels, to decode which takes {needed:,} bytes of {MEMORY:,}")
            if image.format == "JPEG" and "progressive" not in image.info:
                _require_bytes(image)
            with _budget.spend(needed):
                said = remarks(image)
                _decode_smaller(image, storage)
                return prepare_image(image, storage, channels, (width, height)), said


@contextmanager
def reasons() -> Iterator[None]:
    """Turns whatever reading a damaged image raises inside into ImageError, with the reason in one line."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"none of {', '.join(FORMATS)}") from None
    except OSError as error:
        raise ImageError(error.strerror or _one_line(error)) from error
    except Exception as error:  # Pillow's readers raise many types on damaged files; each is a reason in the report
        raise ImageError(f"{type(error).__name__}: {_one_line(error)}") from error


def remarks(image: Image.Image) -> tuple[str, ...]:
    """What is out of the ordinary in an opened image, and therefore reported after it was dealt with.

    Pillow loads a PNG to look for its EXIF data behind the pixels.
    """
    sixteen = image.mode.startswith("I") or (image.format == "PNG" and any("16" in str(tile[3]) for tile in image.tile))  # type: ignore[attr-defined]
    said = {
        "CMYK": image.mode == "CMYK",
        "16-bit": sixteen,
        "palette": image.mode in ("P", "PA"),
        "alpha dropped": image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info,
        "animated": getattr(image, "n_frames", 1) > 1,
        "EXIF orientation": image.getexif().get(_ORIENTATION) in _UPRIGHT,
    }
    return tuple(name for name, so in said.items() if so)


def prepare_image(image: Image.Image, storage: Storage, channels: int, whole: tuple[int, int] | None = None) -> U8:
    """`image` turned upright, in 1 or 3 channels, and brought to size. Returns uint8 (size, size, channels).

    Of samples of 16 bits the high byte is kept; palettes are looked up; CMYK becomes RGB by Pillow's formula; an alpha
    channel is dropped, as torchvision's loader does; grey for RGB is its luma (ITU-R 601-2), and grey becomes RGB by
    repetition. Of an animation the first picture counts. Colour profiles and gamma are not applied.
    whole: as in :func:`fit`.
    """
    orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
        whole = None  # since none that is turned is decoded reduced
    kept = fit(image, storage, MODES[channels], whole)
    return kept.reshape(storage.size, storage.size, channels)


def fit(
    image: Image.Image,
    storage: Storage,
    mode: str | None = None,
    whole: tuple[int, int] | None = None,
) -> U8:
    """`image` at `size` x `size`, by Pillow's bilinear filter, whose support grows with the reduction (antialiased).

    Returns uint8 (size, size, 3), or (size, size) of grey. RGB in one piece of memory is filtered by a compiled loop
    with Pillow's bits (:func:`data.loops.resampled`), where Numba is installed; all else by Pillow.

    short_side: the short side becomes `size` and the long one floor(size * long / short + 1/2), as cuda-convnet2's
    make-data rounds (akrizhevsky/cuda-convnet2@3238bf0, pyext.cpp); of it the `size` columns (or rows) from
    floor((long - size) / 2) on are kept. The width is filtered first, then the height. Only what is kept is computed,
    from the place of the source that it covers; against resizing all and cropping then, a value may differ by 1,
    because Pillow keeps the place in float32 (it matters where a value lies halfway between two bytes).
    stretch: both sides become `size`.

    mode: what the pixels are converted to before they are filtered, as :func:`prepare_image` says; theirs if None. A
    large picture is converted and filtered in strips of rows, which changes no bit and needs little memory.
    whole: (width, height) of the photograph, where `image` was decoded at a whole fraction of it.
    """
    size, (width, height), whole = storage.size, image.size, whole or image.size
    fraction = 1 / round(max(whole) / max(image.size))
    left, top, right, bottom = (fraction * side for side in _kept(*whole, storage))
    reach = ceil(max(1.0, (bottom - top) / size)) + 1  # rows beyond the kept ones that the filter still sees
    first, last = max(0, floor(top) - reach), min(height, ceil(bottom) + reach)
    loops = compiled_loops()
    if loops is not None and image.mode == "RGB" == (mode or image.mode):
        with pixels(image) as there:
            if there is not None:
                made: U8 = loops.resampled(there[first:last], size, (left, top - first, right, bottom - first))
                return made
    strips = []
    for row in range(first, last, max(1, _AT_A_TIME // width)):
        end = min(row + max(1, _AT_A_TIME // width), last)
        strip = _in_mode(image if (row, end) == (0, height) else image.crop((0, row, width, end)), mode or image.mode)
        # Height and width in two calls: in one, Pillow chooses their order by the shape.
        strips.append(strip.resize((size, strip.height), _BILINEAR, box=(left, 0, right, strip.height)))
    narrow = strips[0]
    if len(strips) > 1:
        narrow = Image.new(narrow.mode, (size, last - first))
        for number, strip in enumerate(strips):
            narrow.paste(strip, (0, number * strips[0].height))
    return np.asarray(narrow.resize((size, size), _BILINEAR, box=(0, top - first, size, bottom - first)))


def _decode_smaller(image: Image.Image, storage: Storage) -> None:
    """Let a JPEG be decoded at 1/2, 1/4 or 1/8 of its size, if its sides stay at least _REDUCED times what is kept.

    libjpeg reduces a block of 8x8 by leaving out its high frequencies, which takes a fraction of the time. Against
    decoding all and filtering then, photographs change by less than one level in the mean; see the tests. One that is
    to be turned is decoded as it is: its last block may be a part of one, and would become the first.
    """
    if image.format in ("JPEG", "MPO") and image.getexif().get(_ORIENTATION) not in _UPRIGHT:
        side = ceil(_REDUCED * storage.size)
        image.draft(image.mode, (side, side))


def _kept(width: int, height: int, storage: Storage) -> tuple[float, float, float, float]:
    """The part of the source that is kept: left, top, right, bottom."""
    if storage.fit == "stretch":
        return 0.0, 0.0, float(width), float(height)
    short = min(width, height)
    (left, right), (top, bottom) = _central(width, short, storage.size), _central(height, short, storage.size)
    return left, top, right, bottom


def _central(side: int, short: int, size: int) -> tuple[float, float]:
    """From where to where a side of the source is kept when the short side becomes `size`."""
    resized = (2 * size * side + short) // (2 * short)
    offset = (resized - size) // 2
    return offset * side / resized, (offset + size) * side / resized


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # these formats have no other integers than 16-bit grey
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "P":  # Pillow warns of a transparent palette that becomes anything else
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)


def _memory(image: Image.Image) -> int:
    """Bytes that decoding `image`, opened but not loaded, takes at most: pixels, turned pixels, JPEG's coefficients."""
    pixel = _BYTES_A_PIXEL.get(image.mode, 4)
    known = image.format != "PNG" or "exif" in image.info  # otherwise it may follow the pixels
    if not known or image.getexif().get(_ORIENTATION) in _UPRIGHT:
        pixel *= 2
    if image.format != "PNG":  # whether there are several scans is known to libjpeg alone
        pixel += _COEFFICIENT_BYTES * len(image.getbands())
    return pixel * image.width * image.height


def _require_bytes(image: Image.Image) -> None:
    """Raise ImageError if a sequential JPEG is too short for its pixels, of which libjpeg would invent the rest."""
    held = image.fp.seek(0, os.SEEK_END)  # type: ignore[attr-defined]
    if held * _PIXELS_A_BYTE < image.width * image.height:
        raise ImageError(f"truncated: {held:,} bytes cannot hold {image.width} x {image.height} pixels")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
