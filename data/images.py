"""One photograph in, `size` x `size` bytes per channel out."""

from __future__ import annotations

import stat
from math import ceil, floor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.dataset import U8
from spec.language import Storage

VERSION = 1
"""Raised whenever the same photograph would give other bytes; part of the cache's key."""
MAX_PIXELS = 89_478_485
"""Pillow's threshold for warning of a decompression bomb: a quarter of a GiB of RGB. Here it is the limit."""
MAX_SIDE = 65_535
"""JPEG's own limit (16 bits), here for PNG too: a filter as long as the side takes memory."""
MODES = {1: "L", 3: "RGB"}
"""Pillow's mode for each number of channels."""
FORMATS = ("JPEG", "PNG")
SUFFIXES = (".jpg", ".jpeg", ".png")

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


class ImageError(Exception):
    """A file is no readable JPEG or PNG; the message is the reason."""


def read_image(path: Path, storage: Storage, channels: int) -> U8:
    """The JPEG or PNG at `path`, prepared: uint8 (size, size, channels), RGB order.

    Raises ImageError with a reason if it is not a regular file, neither JPEG nor PNG (whatever its name says),
    truncated, damaged, or larger than MAX_PIXELS or MAX_SIDE.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError("not a regular file")
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
                raise ImageError(f"{width} x {height} pixels, of more than {MAX_PIXELS:,} or a side over {MAX_SIDE:,}")
            return prepare_image(image, storage, channels)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("neither JPEG nor PNG") from None
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error
    except Exception as error:  # Pillow's readers raise many types on damaged files; each is a reason in the report
        raise ImageError(f"{type(error).__name__}: {error}") from error


def prepare_image(image: Image.Image, storage: Storage, channels: int) -> U8:
    """`image` turned upright, in 1 or 3 channels, and brought to size. Returns uint8 (size, size, channels).

    Of samples of 16 bits the high byte is kept; palettes are looked up; CMYK becomes RGB by Pillow's formula; an alpha
    channel is dropped, as torchvision's loader does; grey for RGB is its luma (ITU-R 601-2), and grey becomes RGB by
    repetition. Of an animation the first picture counts. Colour profiles and gamma are not applied.
    """
    orientation = image.getexif().get(_ORIENTATION, 1)
    if image.mode.startswith("I"):  # JPEG and PNG have no other integers than 16-bit grey
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
    elif image.mode == "P":  # Pillow warns of a transparent palette that becomes anything else
        image = image.convert("RGBA")
    if image.mode != MODES[channels]:
        image = image.convert(MODES[channels])
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    return np.asarray(fit(image, storage)).reshape(storage.size, storage.size, channels)


def fit(image: Image.Image, storage: Storage) -> Image.Image:
    """`image` at `size` x `size`, by Pillow's bilinear filter, whose support grows with the reduction (antialiased).

    short_side: the short side becomes `size` and the long one floor(size * long / short + 1/2), as cuda-convnet2's
    make-data rounds (akrizhevsky/cuda-convnet2@3238bf0, pyext.cpp); of it the `size` columns (or rows) from
    floor((long - size) / 2) on are kept. The width is filtered first, then the height. Only what is kept is computed,
    from the place of the source that it covers, so that a picture of any shape needs little memory; against resizing
    all and cropping then, a value may differ by 1, because Pillow keeps the place in float32 (it matters where a value
    lies halfway between two bytes).
    stretch: both sides become `size`.
    """
    size, (width, height) = storage.size, image.size
    if (width, height) == (size, size):
        return image
    if storage.fit == "stretch":
        return image.resize((size, size), _BILINEAR)
    short = min(width, height)
    (left, right), (top, bottom) = _central(width, short, size), _central(height, short, size)
    reach = ceil(short / size) + 1  # rows beyond the kept ones that the filter still sees
    first, last = max(0, floor(top) - reach), min(height, ceil(bottom) + reach)
    rows = image.crop((0, first, width, last)).resize(
        (size, last - first), _BILINEAR, box=(left, 0, right, last - first)
    )
    return rows.resize((size, size), _BILINEAR, box=(0, top - first, size, bottom - first))


def _central(side: int, short: int, size: int) -> tuple[float, float]:
    """From where to where a side of the source is kept when the short side becomes `size`."""
    resized = (2 * size * side + short) // (2 * short)
    offset = (resized - size) // 2
    return offset * side / resized, (offset + size) * side / resized
