"""One photograph: size, place, rotation, modes, and what is refused."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from data import images, pillow_memory
from data.compiled import compiled_loops
from data.images import ImageError, fit, prepare_image, read_image
from data.tests.builders import picture, storage


def plainly(image: Image.Image, size: int) -> np.ndarray:
    """Resize all, then cut the centre out: the definition without the economy."""
    width, height = image.size
    short = min(width, height)
    new = [int(np.floor(side * size / short + 0.5)) for side in (width, height)]
    left, top = (new[0] - size) // 2, (new[1] - size) // 2
    resized = image.resize((new[0], new[1]), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 64), st.sampled_from([1, 3]))
def test_short_side_is_resize_then_centre_crop_to_within_one_level(
    width: int, height: int, size: int, channels: int
) -> None:
    image = picture(height, width, channels)
    received = fit(image, storage(size))
    assert received.shape[:2] == (size, size)
    assert np.abs(received.astype(int) - plainly(image, size)).max() <= 1


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (427, 640), (4000, 256), (257, 300), (256, 256)])
def test_short_side_at_the_sizes_of_photographs(width: int, height: int) -> None:
    image = picture(height, width)
    difference = np.abs(fit(image, storage(256)).astype(int) - plainly(image, 256))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.05  # 640 is reduced to 384 by 3/5, which makes many halves


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    size=st.integers(1, 200),
    how=st.sampled_from(["short_side", "stretch"]),
    fraction=st.sampled_from([1, 2, 8]),
    seed=st.integers(0, 99),
)
def test_the_compiled_filter_has_the_bits_of_pillow(
    width: int, height: int, size: int, how: str, fraction: int, seed: int
) -> None:
    if compiled_loops() is None:
        pytest.skip("no compiled filter on this machine")
    values = np.array([0, 1, 127, 128, 254, 255], np.uint8)
    image = Image.fromarray(np.random.default_rng(seed).choice(values, (height, width, 3)))
    part = fraction // 2 if min(width, height) > 20 else 0  # a last block that is only a part of one
    given = image, storage(size, how), "RGB", (fraction * width - part, fraction * height)
    received = fit(*given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "compiled_loops", lambda: None)
        np.testing.assert_array_equal(received, fit(*given))


def test_a_picture_in_several_pieces_of_memory_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (16, 2000, 3)))
    with pillow_memory.pixels(image.crop((0, 0, 1000, 1000))) as small, pillow_memory.pixels(image) as large:
        assert small is not None
        np.testing.assert_array_equal(small[..., :3], np.asarray(image)[:1000, :1000])
        assert large is None
    received = fit(image, storage(64))
    monkeypatch.setattr(images, "compiled_loops", lambda: None)
    np.testing.assert_array_equal(received, fit(image, storage(64)))


def test_the_long_side_rounds_half_up_and_the_offset_down() -> None:
    # 2 x 5 at 3: the long side is 7.5, so 8; the offset (8 - 3) / 2 = 2.5, so 2; the kept rows of the source are
    # 2 * 5/8 .. 5 * 5/8.
    assert images._central(5, 2, 3) == (2 * 5 / 8, 5 * 5 / 8)
    assert images._central(2, 2, 3) == (0, 2)


def test_a_reduction_is_antialiased() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    received = fit(Image.fromarray(stripes), storage(8))
    assert np.abs(received[:, 1:-1].astype(int) - 127).max() <= 1  # without antialiasing, stripes or one colour


def test_stretch_keeps_everything() -> None:
    image = picture(10, 30)
    received = fit(image, storage(8, "stretch"))
    expected = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR))
    assert np.abs(received.astype(int) - expected).max() <= 1  # Pillow filters the height first where that is less work
    assert not np.array_equal(received, fit(image, storage(8)))


def test_an_image_of_the_right_size_is_kept_as_it_is() -> None:
    image = picture(16, 16)
    np.testing.assert_array_equal(prepare_image(image, storage(16), 3), np.asarray(image))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = picture(3, 5).resize((50, 30), Image.Resampling.NEAREST)
    path = tmp_path / f"a.{suffix}"
    image.save(path, exif=exif)
    with Image.open(path) as saved:
        expected = ImageOps.exif_transpose(saved).convert("RGB")
    assert expected.size == ((50, 30) if orientation < 5 else (30, 50))
    received = read_image(path, storage(20, "stretch"), 3)
    np.testing.assert_array_equal(received, fit(expected, storage(20, "stretch")))
    if orientation > 1:
        assert not np.array_equal(received, fit(image, storage(20, "stretch")))


def test_an_orientation_that_exif_does_not_know_says_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    picture(8, 8).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", storage(8), 3), np.asarray(picture(8, 8)))


def flat(mode: str, color: Any) -> Image.Image:
    return Image.new(mode, (8, 8), color)


def palette_with_transparency() -> Image.Image:
    image = flat("RGB", (200, 100, 50)).quantize(4)
    image.info["transparency"] = b"\x80"
    return image


def sixteen_bit(value: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8), value, np.uint16))


@pytest.mark.parametrize(
    ("image", "suffix", "rgb"),
    [
        (flat("L", 77), "png", (77, 77, 77)),
        (flat("1", 1), "png", (255, 255, 255)),
        (flat("LA", (77, 0)), "png", (77, 77, 77)),
        (flat("RGBA", (200, 100, 50, 10)), "png", (200, 100, 50)),
        (flat("RGB", (200, 100, 50)).quantize(4), "png", (200, 100, 50)),
        (palette_with_transparency(), "png", (200, 100, 50)),
        (sixteen_bit(0), "png", (0, 0, 0)),
        (sixteen_bit(0x8000), "png", (128, 128, 128)),
        (sixteen_bit(0x80FF), "png", (128, 128, 128)),
        (sixteen_bit(0xFFFF), "png", (255, 255, 255)),
        (flat("CMYK", (0, 255, 255, 0)), "jpg", (255, 0, 0)),
        (flat("CMYK", (0, 0, 0, 255)), "jpg", (0, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb_and_grey(tmp_path: Path, image: Image.Image, suffix: str, rgb: tuple[int, ...]) -> None:
    path = tmp_path / f"a.{suffix}"
    image.save(path)
    near = 3 if suffix == "jpg" else 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        received = read_image(path, storage(4), 3)
        grey = read_image(path, storage(4), 1)
    assert received.shape == (4, 4, 3)
    assert np.abs(received.astype(int) - rgb).max() <= near
    assert grey.shape == (4, 4, 1)
    luma = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
    assert np.abs(grey - luma).max() <= near + 0.6


def test_of_sixteen_bit_colour_the_high_byte_is_kept(tmp_path: Path) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = (b"\x00" + struct.pack(">3H", 0x12FF, 0x3400, 0x56FF) * 4) * 4
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    assert read_image(tmp_path / "a.png", storage(4), 3)[0, 0].tolist() == [0x12, 0x34, 0x56]


def test_of_several_pictures_the_first_counts(tmp_path: Path) -> None:
    red, blue = flat("RGB", (255, 0, 0)), flat("RGB", (0, 0, 255))
    red.save(tmp_path / "a.png", save_all=True, append_images=[blue])
    red.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[blue])
    for name in ("a.png", "a.jpg"):
        assert np.abs(read_image(tmp_path / name, storage(4), 3).astype(int) - (255, 0, 0)).max() <= 3, name


# --- JPEGs decoded reduced --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(("size", "times"), [((1600, 1203), 8), ((1023, 389), 4), ((771, 385), 4), ((200, 191), 1)])
def test_a_large_jpeg_is_decoded_reduced_and_hardly_differs(
    tmp_path: Path, size: tuple[int, int], times: int, orientation: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against decoding all, photographs differ by less than one level in the mean, and nowhere by more than 16."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph = picture(24, 32).resize(size, Image.Resampling.BICUBIC).convert(mode)
    photograph.save(tmp_path / "a.jpg", quality=92, exif=exif)
    seen: list[tuple[int, int]] = []

    def noted(image: Image.Image, *rest: Any) -> Any:
        seen.append(image.size)
        return fit(image, *rest)

    monkeypatch.setattr("data.images.fit", noted)
    received = read_image(tmp_path / "a.jpg", storage(64), 3).astype(int)
    assert max(seen[0]) == -(-max(size) // (times if orientation == 1 else 1))
    monkeypatch.setattr("data.images._REDUCED", 1e6)
    whole = read_image(tmp_path / "a.jpg", storage(64), 3)
    assert max(seen[1]) == max(size)
    difference = np.abs(received - whole)
    assert difference.mean() < 1
    assert difference.max() <= 16


# --- what is refused --------------------------------------------------------------------------------------------------


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    picture(64, 64).save(buffer, kind)
    return buffer.getvalue()


def truncated(path: Path) -> None:
    path.write_bytes(encoded("JPEG")[:2000])


def truncated_png(path: Path) -> None:
    path.write_bytes(encoded("PNG")[:2000])


def damaged_png(path: Path) -> None:
    content = bytearray(encoded("PNG"))
    content[60] ^= 0xFF
    path.write_bytes(content)


def text(path: Path) -> None:
    path.write_text("not an image")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def tiff(path: Path) -> None:
    path.write_bytes(encoded("TIFF"))


def enormous(path: Path) -> None:
    Image.new("1", (9500, 9500)).save(path, "PNG")


def long(path: Path) -> None:
    Image.new("1", (65536, 1)).save(path, "PNG")


def more_enormous(path: Path) -> None:
    content = bytearray(encoded("PNG"))
    content[16:24] = struct.pack(">II", 1_000_000, 1_000_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)


def dangling(path: Path) -> None:
    path.symlink_to("nothing.png")


def pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (truncated, "truncated"),
        (truncated_png, "truncated"),
        (damaged_png, "."),
        (text, "none of JPEG, PNG, WEBP, BMP, GIF"),
        (empty, "none of JPEG, PNG, WEBP, BMP, GIF"),
        (tiff, "none of JPEG, PNG, WEBP, BMP, GIF"),
        (enormous, "9500 x 9500 pixels, of more than 89,478,485"),
        (long, "65536 x 1 pixels, .* or a side over 65,535"),
        (more_enormous, "decompression bomb"),
        (dangling, "No such file"),
        pytest.param(pipe, "not a regular file", marks=pytest.mark.skipif(os.name == "nt", reason="no pipes there")),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    make(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as the cache does
        with pytest.raises(ImageError, match=reason):
            read_image(tmp_path / "a.png", storage(8), 3)


@pytest.mark.parametrize("size", [(1, 65_535), (65_535, 1)])
@pytest.mark.parametrize("how", ["short_side", "stretch"])
def test_a_picture_of_any_shape_needs_little_memory(size: tuple[int, int], how: str) -> None:
    assert fit(Image.new("1", size).convert("L"), storage(256, how)).shape == (256, 256)
