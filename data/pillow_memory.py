"""The pixels of a Pillow image where they lie, without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from data.dataset import U8


class _ArrowArray(ctypes.Structure):
    """The beginning of ``struct ArrowArray`` of Arrow's C data interface."""


_ArrowArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


@contextmanager
def pixels(image: Image.Image) -> Iterator[U8 | None]:
    """The pixels of an RGB `image`, uint8 (H, W, 4) to be read inside, the fourth byte unused.

    Pillow hands them out by Arrow's C data interface, as lists of four bytes. None if they do not lie in one piece,
    which is so above 16 MiB, or if this Pillow has no such interface (before 11.3).
    """
    image.load()
    try:
        _, held = image.__arrow_c_array__()
    except (AttributeError, ValueError):
        yield None
        return
    shape = (image.height, image.width, 4)
    array = _ArrowArray.from_address(_pointer(held, b"arrow_array"))
    assert image.mode == "RGB"
    assert (array.length, array.offset, array.n_children) == (shape[0] * shape[1], 0, 1)
    address = array.children[0].contents.buffers[1]
    yield np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8)), shape)
