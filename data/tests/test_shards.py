"""Images in several arrays, against one array."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from data import shards as module
from data.compiled import compiled_loops
from data.shards import Shards


@pytest.mark.parametrize("large", [1, 1 << 60], ids=["past the caches", "by NumPy"])
@hypothesis_settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    size=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    offsets=st.tuples(st.integers(0, 64), st.integers(0, 64)),
    contiguous=st.booleans(),
    data=st.data(),
)
def test_taking_is_indexing(
    large: int,
    counts: list[int],
    size: int,
    channels: int,
    offsets: tuple[int, int],
    contiguous: bool,
    data: st.DataObject,
) -> None:
    """Wherever the images and their copies begin in memory, and in whatever order and how often they are wanted."""
    total, shape = sum(counts), (size, size, channels)
    bytes_ = np.random.default_rng(total).integers(0, 256, (total, *shape), np.uint8)
    held = np.empty(bytes_.size + offsets[0], np.uint8)[offsets[0] :].reshape(bytes_.shape)
    held[:] = bytes_
    parts = np.split(held, np.cumsum(counts)[:-1])
    indices = data.draw(st.lists(st.integers(-total, total - 1), max_size=12))
    around = np.full(offsets[1] + len(indices) * held[0].size + 64, 77, np.uint8)
    out = around[offsets[1] : offsets[1] + len(indices) * held[0].size].reshape(-1, *shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LARGE", large)
        pieces = (
            parts if contiguous else [part[:, ::-1][:, ::-1] if i else part[..., :] for i, part in enumerate(parts)]
        )
        assert Shards(pieces).take(indices, out) is out
    np.testing.assert_array_equal(out, bytes_[indices])
    assert (around[: offsets[1]] == 77).all()
    assert (around[offsets[1] + out.size :] == 77).all()


def test_large_images_are_copied_by_the_compiled_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loops = compiled_loops()
    if loops is None:
        pytest.skip("no compiled loops on this machine")
    seen = []
    monkeypatch.setattr(loops, "copy_rows", lambda source, rows, out, places: seen.append((list(rows), list(places))))
    images = np.zeros((4, 128, 128, 1), np.uint8)
    Shards([images, images]).take([5, 1, 6])
    assert seen == [([1], [1]), ([1, 2], [0, 2])]
    Shards([images[:, :64, :64]]).take([0])
    assert len(seen) == 2
