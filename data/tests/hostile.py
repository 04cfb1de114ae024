"""A folder and a tar of bad files under bad names: what people have, and what an enemy would send."""

from __future__ import annotations

import io
import os
import socket
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from data.tests.archives import jpeg
from data.tests.builders import picture

USED = ""
"""What is expected of an image that must be dealt with."""


def encoded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image or picture(64, 48)).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks)


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def resized_header(content: bytes, height: int, width: int) -> bytes:
    """A JPEG whose frame header claims other sides."""
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(exif=exif)


def animated(kind: str) -> bytes:
    return encoded(kind, picture(40, 40), save_all=True, append_images=[picture(40, 40, seed=i) for i in (1, 2)])


def many_texts() -> bytes:
    info = PngImagePlugin.PngInfo()
    for i in range(3):
        info.add_text(f"bomb {i}", "x" * (3 << 20), zip=True)
    return encoded("PNG", pnginfo=info)


def sixteen(channels: int) -> bytes:
    values = np.arange(32 * 32 * channels, dtype=">u2").reshape(32, 32 * channels)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    return png(
        32, 32, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""), depth=16, colour={1: 0, 3: 2}[channels]
    )


def transparent_palette() -> bytes:
    return encoded("PNG", picture(30, 30).convert("P"), transparency=3)


def large(mode: str, side: int, kind: str) -> bytes:
    return encoded(kind, Image.new(mode, (side, side)))


NONE = "none of JPEG"
CONTENTS: dict[str, tuple[Callable[[], bytes], str]] = {
    # what is left out, and a part of the reason
    "truncated.jpg": (lambda: jpeg(200, 200)[:3000], "truncated"),
    "no end.jpg": (lambda: jpeg(200, 200)[:-500], "truncated"),
    "header only.jpg": (lambda: jpeg(200, 200)[:20], "."),
    "start only.jpg": (lambda: b"\xff\xd8", "."),
    "truncated.png": (lambda: encoded("PNG", picture(99, 99))[:3000], "truncated"),
    "wrong checksum.png": (lambda: flipped(encoded("PNG"), 60), "."),
    "no pixels.png": (lambda: png(8, 8, chunk(b"IEND", b"")), "."),
    "unknown colour.png": (lambda: png(8, 8, chunk(b"IDAT", b""), colour=5), "."),
    "no sides.png": (lambda: png(0, 0, chunk(b"IDAT", b"")), "."),
    "no rows.jpg": (lambda: resized_header(jpeg(), 0, 24), "."),
    "more rows than there are.jpg": (lambda: resized_header(jpeg(), 4000, 4000), "truncated"),
    "truncated.gif": (lambda: encoded("GIF", picture(90, 90))[:900], "."),
    "truncated.bmp": (lambda: encoded("BMP")[:900], "truncated"),
    "truncated.webp": (lambda: encoded("WEBP", picture(90, 90))[:900], "."),
    "empty.jpg": (lambda: b"", NONE),
    "text.jpg": (lambda: b"not an image", NONE),
    "page.jpg": (lambda: b"<!DOCTYPE html><html>This photo is no longer available</html>", NONE),
    "vector.png": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', NONE),
    "pickle.png": (lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR.", NONE),
    "archive.png": (lambda: b"PK\x03\x04" + bytes(100), NONE),
    "zeros.jpg": (lambda: bytes(100_000), NONE),
    "noise.jpg": (lambda: np.random.default_rng(0).bytes(50_000), NONE),
    "scan.jpg": (lambda: encoded("TIFF"), NONE),
    "icon.png": (lambda: encoded("ICO"), NONE),
    "script.jpg": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NONE),
    "bomb.png": (lambda: png(1_000_000, 1_000_000, chunk(b"IDAT", b"")), "decompression bomb"),
    "bomb.jpg": (lambda: resized_header(jpeg(), 65_500, 65_500), "decompression bomb"),
    "bomb.gif": (lambda: encoded("GIF")[:6] + struct.pack("<HH", 65_535, 65_535) + encoded("GIF")[10:], "bomb"),
    "enormous.png": (lambda: large("1", 9500, "PNG"), "9500 x 9500 pixels, of more than"),
    "too much memory.jpg": (lambda: resized_header(jpeg(), 9_000, 9_000), "to decode which takes"),
    "long.png": (lambda: encoded("PNG", Image.new("1", (65_536, 1))), "a side over 65,535"),
    "texts.png": (many_texts, "."),
    # what is dealt with
    "photo.jpg": (jpeg, USED),
    "large.jpg": (lambda: large("RGB", 7000, "JPEG"), USED),
    "large.png": (lambda: large("RGB", 8000, "PNG"), USED),
    "inkjet.jpg": (lambda: encoded("JPEG", picture(40, 40).convert("CMYK")), USED),
    "progressive.jpg": (lambda: jpeg(progressive=True), USED),
    "grey.jpg": (lambda: encoded("JPEG", picture(40, 40, 1)), USED),
    "two pictures.jpg": (lambda: animated("MPO"), USED),
    "more after the end.jpg": (lambda: jpeg() + bytes(1000), USED),
    "turned.jpg": (lambda: turned(6), USED),
    "turned anyhow.jpg": (lambda: turned(99), USED),
    "broken metadata.jpg": (lambda: jpeg(exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), USED),
    "broken profile.jpg": (lambda: jpeg(icc_profile=b"\xff" * 500), USED),
    "one pixel.png": (lambda: encoded("PNG", picture(1, 1)), USED),
    "one row.png": (lambda: encoded("PNG", picture(1, 3000)), USED),
    "sixteen grey.png": (lambda: sixteen(1), USED),
    "sixteen colour.png": (lambda: sixteen(3), USED),
    "palette.png": (lambda: encoded("PNG", picture(40, 40).convert("P")), USED),
    "transparent palette.png": (transparent_palette, USED),
    "transparent.png": (lambda: encoded("PNG", picture(40, 40).convert("RGBA")), USED),
    "grey and alpha.png": (lambda: encoded("PNG", picture(40, 40).convert("LA")), USED),
    "bits.png": (lambda: encoded("PNG", picture(40, 40).convert("1")), USED),
    "animated.png": (lambda: animated("PNG"), USED),
    "animated.gif": (lambda: animated("GIF"), USED),
    "animated.webp": (lambda: animated("WEBP"), USED),
    "really a png.jpg": (lambda: encoded("PNG"), USED),
    # names
    "-rf.jpg": (jpeg, USED),
    "$(touch x) `touch y`; '\".jpg": (jpeg, USED),
    "[bold]brackets {0} %s.jpg": (jpeg, USED),
    "Bild \u00e4\u0308 \u202e \U0001f41f.JPEG": (jpeg, USED),
    "n" * 245 + ".jpg": (jpeg, USED),
}
"""Name to (how the content is made, USED or a part of the reason why it is left out)."""
PASSED_OVER = {"Thumbs.db": ".db", "notes.txt": ".txt", "photo": "", "clip.mp4": ".mp4", "raw.tif": ".tif",
               ".hidden.jpg": "hidden", "._photo.jpg": "hidden"}  # fmt: skip
"""Name to what the report counts it under."""
ODD_NAMES = (
    "line\nbreak.jpg",
    "\x1b[31mred\x1b[0m.jpg",
    "bell\a.jpg",
    "tab\t.jpg",
    "\udcff\udcfe.jpg",
    "back\\slash.jpg",
)
"""Names that some file systems do not have. The images are in order."""


def write_specials(folder: Path) -> dict[str, str]:
    """What is neither file nor folder, and what lies about it. Returns name to a part of the reason."""
    (folder / "to nowhere.jpg").symlink_to("nothing.jpg")
    (folder / "to itself.jpg").symlink_to("to itself.jpg")
    (folder / "to zeros.jpg").symlink_to("/dev/zero")
    (folder / "to secrets.jpg").symlink_to("/etc/passwd")
    (folder / "to a folder.jpg").symlink_to(folder, target_is_directory=True)
    (folder / "loop").symlink_to("..", target_is_directory=True)
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(folder)  # the name of a socket must be short
        try:
            bound.bind("socket.jpg")
        finally:
            os.chdir(here)
    with (folder / "endless.jpg").open("wb") as file:
        file.truncate(1 << 40)
    return {
        "to nowhere.jpg": "No such file", "to itself.jpg": "symbolic link", "to zeros.jpg": "not a regular file",
        "to secrets.jpg": NONE, "to a folder.jpg": "a link to a folder", "loop": "a link to a folder",
        "pipe.jpg": "not a regular file", "socket.jpg": "not a regular file", "endless.jpg": NONE,
    }  # fmt: skip


def write_folder(root: Path) -> tuple[dict[str, str], int]:
    """All of the above in ``root/a``, and good images in ``root/b``.

    Returns path below `root` to a part of the reason why it is left out, and how many images are to be used.
    """
    bad = {f"a/{name}": reason for name, (_, reason) in CONTENTS.items() if reason}
    (root / "a" / "folder.jpg").mkdir(parents=True)
    (root / "b").mkdir()
    for name, (make, _) in CONTENTS.items():
        (root / "a" / name).write_bytes(make())
    for name in PASSED_OVER:
        (root / "a" / name).write_bytes(jpeg())
    for name in (*ODD_NAMES, "folder.jpg/inside.jpg"):
        (root / "a" / name).write_bytes(jpeg())
    for i in range(3):
        (root / "b" / f"{i}.jpg").write_bytes(jpeg(seed=i))
    bad |= {f"a/{name}": reason for name, reason in write_specials(root / "a").items()}
    return bad, len(CONTENTS) + len(ODD_NAMES) + 4 - sum(bool(reason) for _, reason in CONTENTS.values())


def _entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **pax: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.pax_headers = kind, link, pax
    return info


ENTRIES: tuple[tuple[tarfile.TarInfo, bytes, str], ...] = (
    (_entry("../outside.jpg"), jpeg(), "leads out of the archive"),
    (_entry("a/../../outside.jpg"), jpeg(), "leads out of the archive"),
    (_entry("a/.."), jpeg(), "leads out of the archive"),
    (_entry("/tmp/absolute.jpg"), jpeg(), "leads out of the archive"),
    (_entry("C:\\windows.jpg"), jpeg(), "leads out of the archive"),
    (_entry("..\\outside.jpg"), jpeg(), "leads out of the archive"),
    (_entry("a/plain.jpg", path="../by header.jpg"), jpeg(), "leads out of the archive"),
    (_entry("a/" + "../" * 60 + "long.jpg"), jpeg(), "leads out of the archive"),
    (_entry("a/line\nbreak.jpg"), jpeg(), "cannot be printed"),
    (_entry("a/symbolic.jpg", tarfile.SYMTYPE, "/etc/passwd"), b"", "a link"),
    (_entry("a/folder", tarfile.SYMTYPE, "/tmp"), b"", "a link"),
    (_entry("a/hard.jpg", tarfile.LNKTYPE, "../../etc/passwd"), b"", "a link"),
    (_entry("a/character.jpg", tarfile.CHRTYPE), b"", "a device"),
    (_entry("a/block.jpg", tarfile.BLKTYPE), b"", "a device"),
    (_entry("a/pipe.jpg", tarfile.FIFOTYPE), b"", "a device"),
    (_entry("a/sparse.jpg", tarfile.GNUTYPE_SPARSE), b"", "a sparse file"),
    (_entry("a/other.jpg", b"Z"), b"", "entry of type"),
    (_entry("a/twice.jpg"), b"not an image", "another entry of the same name follows"),
    (_entry("a/twice.jpg"), jpeg(), USED),
    (_entry("a/folder/below.jpg"), jpeg(), USED),
    (_entry("stray.jpg"), jpeg(), "in no class folder"),
)
"""(entry, content, USED or a part of the reason) of a tar."""


def write_tar(path: Path) -> tuple[dict[str, str], int]:
    """The entries above, the contents of the folder, and good images, in a tar. Returns as :func:`write_folder`."""
    bad = dict[str, str]()
    with tarfile.open(path, "w") as archive:
        files = [(_entry(f"a/{name}"), make(), reason) for name, (make, reason) in CONTENTS.items()]
        good = [(_entry(f"b/{i}.jpg"), jpeg(seed=i), USED) for i in range(3)]
        for info, content, reason in (*ENTRIES, *files, *good):
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
            if reason or not info.name.isprintable():
                bad[info.pax_headers.get("path", info.name)] = reason or "cannot be printed"
    return bad, len(ENTRIES) + len(CONTENTS) + 3 - len(bad)
