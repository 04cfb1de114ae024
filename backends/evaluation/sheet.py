"""A contact sheet: pictures side by side, each with its words below it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.dataset import U8

COLUMNS, ROWS = 8, 8
SIDE, LINE, GAP = 112, 13, 8
"""Pixels of a picture's side, a line of words, and the space between pictures."""
FONT_SIZE = 11
_BACKGROUND, _WORDS = (250, 250, 250), ((0, 96, 0), (176, 0, 0))


def contact_sheet(path: Path, pictures: U8, words: Sequence[tuple[str, str]], title: str) -> None:
    """Write `pictures` (N, S, S, C), at most COLUMNS x ROWS, as a PNG. words: two lines for each. Raises OSError."""
    count = len(pictures)
    columns, rows = min(COLUMNS, count), -(-count // COLUMNS)
    font = ImageFont.load_default(FONT_SIZE)
    cell = SIDE + GAP, SIDE + 2 * LINE + GAP
    sheet = Image.new("RGB", (max(columns, 3) * cell[0] + GAP, rows * cell[1] + 2 * GAP + LINE), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP // 2), title, (0, 0, 0), font)
    for number, (picture, lines) in enumerate(zip(pictures, words, strict=True)):
        left, top = GAP + number % COLUMNS * cell[0], 2 * GAP + LINE + number // COLUMNS * cell[1]
        shown = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else np.ascontiguousarray(picture))
        # Small pictures are enlarged by whole pixels, so that what the network saw can be seen.
        small = picture.shape[0] < SIDE
        resampling = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
        sheet.paste(shown.convert("RGB").resize((SIDE, SIDE), resampling), (left, top))
        for row, (line, colour) in enumerate(zip(lines, _WORDS, strict=True)):
            draw.text((left, top + SIDE + row * LINE), _shortened(line, font), colour, font)
    sheet.save(path, "PNG")


def _shortened(line: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """`line`, with its end left out until it fits under a picture."""
    shown = line
    while font.getlength(shown) > SIDE and len(shown) > 1:
        line = line[:-1]
        shown = f"{line}..."
    return shown
