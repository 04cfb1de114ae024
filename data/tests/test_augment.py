"""spec/README.md, "Data" and "Evaluation": crop, flip, mean, noise, scaling, order against loops over single values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from data import augment
from data.errors import DataError
from data.statistics import Statistics, compute_statistics
from data.tests.builders import network_input, pixels, settings
from spec import draws
from spec.draws import Purpose
from spec.language import ColorNoise, Crop, Data, Flip, Input, Mean

f32 = np.float32


def word(seed: int, purpose: Purpose, item: int, epoch: int, j: int) -> int:
    return int(draws.words(seed, purpose, j + 1, items=item, epoch=epoch)[j])


def place_and_flip(index: int, data: Data, input: Input, seed: int, epoch: int) -> tuple[int, int, bool]:
    """The draws of one image in whole numbers."""
    rows, cols = data.storage.size - input.height, data.storage.size - input.width
    item = index // data.crop.shared_by
    row, col = rows // 2, cols // 2
    if data.crop.kind == "random":
        row = word(seed, Purpose.CROP, item, epoch, 0) * (rows + 1) >> 32
        col = word(seed, Purpose.CROP, item, epoch, 1) * (cols + 1) >> 32
    threshold = int(data.flip.probability * 2**32)
    return row, col, word(seed, Purpose.FLIP, index // data.flip.shared_by, epoch, 0) < threshold


def noise_of(index: int, data: Data, statistics: Statistics, seed: int, epoch: int) -> list[float] | None:
    asked = data.color_noise
    if asked is None or (asked.until_epoch is not None and epoch >= asked.until_epoch):
        return None
    channels = len(statistics.channel_mean)
    total = [0.0] * channels
    for j in range(channels):
        z = float(draws.normal(np.array([word(seed, Purpose.COLOR, index, epoch, j)], np.uint32))[0])
        variance = float(statistics.eigenvalues[j])
        spread = np.sqrt(variance) if asked.scale == "stddev" else variance / 255.0
        for c in range(channels):
            total[c] += float(statistics.eigenvectors[c, j]) * (data.scale * asked.sigma * spread) * z
    return total


def one_view(
    image: Any,
    data: Data,
    input: Input,
    statistics: Statistics,
    row: int,
    col: int,
    flip: bool,
    noise: list[float] | None,
) -> np.ndarray:
    """One image by loops, every value in float32 with one rounding a step, as the definition says."""
    rows, cols = data.storage.size - input.height, data.storage.size - input.width
    out = np.empty((input.channels, input.height, input.width), f32)
    for c in range(input.channels):
        divisor = (1.0 if data.std is None else data.std[c]) * (
            data.color_noise.divide_by if noise is not None and data.color_noise else 1.0
        )
        for i in range(input.height):
            for j in range(input.width):
                across = input.width - 1 - j if flip else j
                value = f32(image[row + i, col + across, c]) * f32(data.scale)
                if data.mean.values is not None:
                    value -= f32(data.mean.values[c])
                elif data.mean.kind == "channel":
                    value -= f32(data.scale * statistics.channel_mean[c])
                elif data.mean.kind == "image" and data.mean.align == "crop":
                    value -= f32(data.scale * statistics.mean_image[c, row + i, col + across])
                elif data.mean.kind == "image":
                    value -= f32(data.scale * statistics.mean_image[c, rows // 2 + i, cols // 2 + j])
                if noise is not None:
                    value += f32(noise[c])
                value *= f32(1.0 / divisor)
                out[c if data.channel_order == "rgb" else input.channels - 1 - c, i, j] = value
    return out


@st.composite
def cases(draw: st.DrawFn) -> tuple[Data, Input]:
    size, channels = draw(st.integers(2, 6)), draw(st.sampled_from([1, 3]))
    values = st.lists(st.floats(0.1, 200), min_size=channels, max_size=channels).map(tuple)
    kind: Any = draw(st.sampled_from(["image", "channel", "values", "none"]))
    mean = Mean(
        kind=kind, align=draw(st.sampled_from(["center", "crop"])), values=draw(values) if kind == "values" else None
    )
    noise = ColorNoise(
        sigma=draw(st.floats(0.01, 2)),
        scale=draw(st.sampled_from(["stddev", "eigenvalue"])),
        divide_by=draw(st.sampled_from([1.0, 1.1])),
        until_epoch=draw(st.sampled_from([None, 1, 2])),
    )
    data = settings(
        size,
        channel_order=draw(st.sampled_from(["rgb", "bgr"])),
        scale=draw(st.sampled_from([1.0, 1 / 255, 0.3])),
        mean=mean,
        std=draw(st.one_of(st.none(), values)),
        crop=Crop(kind=draw(st.sampled_from(["random", "center"])), shared_by=draw(st.integers(1, 3))),
        flip=Flip(probability=draw(st.sampled_from([0.0, 0.5, 1.0])), shared_by=draw(st.integers(1, 3))),
        color_noise=draw(st.one_of(st.none(), st.just(noise))),
    )
    return data, network_input(channels, draw(st.integers(1, size)), draw(st.integers(1, size)))


@hypothesis_settings(max_examples=60, deadline=None)
@given(case=cases(), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 2))
def test_training_batch_is_bit_for_bit_what_loops_give(case: tuple[Data, Input], seed: int, epoch: int) -> None:
    data, input = case
    images = pixels(6, data.storage.size, input.channels)
    statistics = compute_statistics(images)
    indices = np.array([4, 0, 3, 5])
    batch = augment.training_batch(
        images, indices, data=data, input=input, statistics=statistics, seed=seed, epoch=epoch
    )
    assert batch.dtype == np.float32
    for received, index in zip(batch, indices.tolist(), strict=True):
        view = place_and_flip(index, data, input, seed, epoch)
        noise = noise_of(index, data, statistics, seed, epoch)
        np.testing.assert_array_equal(received, one_view(images[index], data, input, statistics, *view, noise))


@hypothesis_settings(max_examples=30, deadline=None)
@given(case=cases(), crops=st.sampled_from(["center", "ten"]))
def test_evaluation_batch_is_bit_for_bit_what_loops_give(case: tuple[Data, Input], crops: str) -> None:
    data, input = case
    images = pixels(2, data.storage.size, input.channels)
    statistics = compute_statistics(images)
    batch = augment.evaluation_batch(images, data=data, input=input, statistics=statistics, crops=crops)
    b, d = data.storage.size - input.height, data.storage.size - input.width
    places = [(0, 0), (0, d), (b // 2, d // 2), (b, 0), (b, d)]
    views = [(*p, False) for p in places] + [(*p, True) for p in places] if crops == "ten" else [(*places[2], False)]
    assert batch.shape == (2, len(views), input.channels, input.height, input.width)
    for image, received in zip(images, batch, strict=True):
        for view, values in zip(views, received, strict=True):
            np.testing.assert_array_equal(values, one_view(image, data, input, statistics, *view, None))


@pytest.mark.parametrize("align", ["center", "crop"])
@pytest.mark.parametrize("flip", [False, True])
def test_where_the_mean_image_is_cut(align: Any, flip: bool) -> None:
    """Caffe subtracts before it reflects, at the crop's place; the 2012 source after, always the centre."""
    images = pixels(3, 9, 3)
    statistics = compute_statistics(images)
    data = settings(9, mean=Mean(kind="image", align=align), flip=Flip(probability=float(flip)))
    drawn = augment.Draws(np.array([0, 3]), np.array([4, 1]), np.array([flip, flip]), np.zeros((2, 3)), active=False)
    received = augment.apply_training(
        images, [2, 0], drawn, data=data, input=network_input(3, 5), statistics=statistics
    )
    mirror = slice(None, None, -1 if flip else 1)
    mean = statistics.mean_image.astype(np.float32)
    for one, index, row, col in zip(received, (2, 0), (0, 3), (4, 1), strict=True):
        crop = images[index, row : row + 5, col : col + 5].transpose(2, 0, 1).astype(np.float32)
        if align == "crop":
            expected = (crop - mean[:, row : row + 5, col : col + 5])[:, :, mirror]
        else:
            expected = crop[:, :, mirror] - mean[:, 2:7, 2:7]
        np.testing.assert_array_equal(one, expected)


def test_ten_crop_of_256_by_224_starts_at_multiples_of_the_border_16() -> None:
    views = augment.evaluation_views(settings(256), network_input(3, 224), "ten")
    places = ((0, 0), (0, 32), (16, 16), (32, 0), (32, 32))
    assert views == (*((*place, False) for place in places), *((*place, True) for place in places))
    assert augment.evaluation_views(settings(256), network_input(3, 224), "center") == ((16, 16, False),)


def test_ten_crop_shows_the_pixels_of_its_corners() -> None:
    image = np.arange(256 * 256, dtype=np.int64).reshape(256, 256)
    halves = [(image // 256).astype(np.uint8), (image % 256).astype(np.uint8)]  # row number, column number
    images = np.stack(halves)[..., None]
    batch = augment.evaluation_batch(
        images, data=settings(256), input=network_input(1, 224), statistics=None, crops="ten"
    )
    corners = [(int(batch[0, v, 0, 0, 0]), int(batch[1, v, 0, 0, 0])) for v in range(10)]
    assert corners[:5] == [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]
    assert corners[5:] == [(0, 223), (0, 255), (16, 239), (32, 223), (32, 255)]


def test_random_crops_reach_every_offset_and_share_their_draw() -> None:
    data = settings(256, crop=Crop(kind="random", shared_by=32), flip=Flip(probability=0.5, shared_by=8))
    drawn = augment.training_draws(
        np.arange(32 * 400), data=data, input=network_input(3, 224), statistics=None, seed=1, epoch=0
    )
    for places in (drawn.rows, drawn.cols):
        shared = places.reshape(400, 32)
        assert (shared == shared[:, :1]).all()
        assert set(shared[:, 0].tolist()) == set(range(33))
    assert (drawn.rows != drawn.cols).any()
    flips = drawn.flip.reshape(-1, 8)
    assert (flips == flips[:, :1]).all()
    assert 0.45 < flips.mean() < 0.55


def test_draws_change_with_seed_epoch_and_image_and_with_nothing_else() -> None:
    data = settings(16, crop=Crop(kind="random"), flip=Flip(probability=0.5))

    def places(indices: Any, seed: int, epoch: int) -> list[tuple[int, int, bool]]:
        drawn = augment.training_draws(
            indices, data=data, input=network_input(1, 8), statistics=None, seed=seed, epoch=epoch
        )
        return list(zip(drawn.rows.tolist(), drawn.cols.tolist(), drawn.flip.tolist(), strict=True))

    together = places(np.arange(20), 0, 0)
    assert [places([i], 0, 0)[0] for i in range(20)] == together
    assert places(np.arange(20)[::-1], 0, 0) == together[::-1]
    assert places(np.arange(20), 1, 0) != together
    assert places(np.arange(20), 0, 1) != together
    assert len(set(together)) > 10


@pytest.mark.parametrize(("scale", "power"), [("stddev", 0.5), ("eigenvalue", 1.0)])
def test_noise_has_the_covariance_it_should(scale: Any, power: float) -> None:
    """Against LAPACK's eigenvectors, as fractions of the pixel's range, over many images."""
    mixing = np.array([[40.0, 10, 5], [35, -8, 3], [30, 5, -9]])
    colors = 128 + np.random.default_rng(0).normal(size=(40, 16, 16, 3)) @ mixing.T / 2
    statistics = compute_statistics(colors.clip(0, 255).astype(np.uint8))
    sigma, pixel_scale = 0.1, 1 / 255
    data = settings(16, scale=pixel_scale, color_noise=ColorNoise(sigma=sigma, scale=scale))
    drawn = augment.training_draws(
        np.arange(40000), data=data, input=network_input(3, 8), statistics=statistics, seed=3, epoch=5
    )
    values, vectors = np.linalg.eigh(statistics.covariance / 255**2)
    expected = vectors @ np.diag((sigma * values**power) ** 2) @ vectors.T
    received = np.cov(drawn.noise.T, bias=True)
    spread = np.sqrt(np.outer(np.diag(expected), np.diag(expected)) + expected**2) / np.sqrt(40000)
    assert (np.abs(received - expected) < 5 * spread).all(), (received, expected)
    assert (np.abs(drawn.noise.mean(axis=0)) < 5 * np.sqrt(np.diag(expected) / 40000)).all()


def test_noise_moves_whole_channels_and_stops_with_its_division() -> None:
    images = pixels(12, 8, 3)
    statistics = compute_statistics(images)
    noise = ColorNoise(sigma=0.1, scale="stddev", divide_by=1.1, until_epoch=3)
    input, data = network_input(3, 8), settings(8, color_noise=noise)
    bare = augment.training_batch(
        images, np.arange(12), data=settings(8), input=input, statistics=statistics, seed=0, epoch=2
    )

    def noisy(epoch: int) -> np.ndarray:
        return augment.training_batch(
            images, np.arange(12), data=data, input=input, statistics=statistics, seed=0, epoch=epoch
        )

    added = noisy(2).astype(np.float64) * 1.1 - bare
    assert np.ptp(added, axis=(2, 3)).max() < 1e-3
    assert len(np.unique(added[:, :, 0, 0].round(4))) == 36  # every image and channel its own
    assert not np.array_equal(noisy(1), noisy(2))
    np.testing.assert_array_equal(noisy(3), bare)
    evaluated = augment.evaluation_batch(images, data=data, input=input, statistics=statistics)
    np.testing.assert_array_equal(evaluated[:, 0], bare)


def test_bgr_is_rgb_reversed_with_its_statistics() -> None:
    images = pixels(5, 8, 3)
    statistics = compute_statistics(images)
    common: dict[str, Any] = {
        "mean": Mean(kind="image", align="crop"),
        "std": (1.0, 2.0, 3.0),
        "crop": Crop(kind="random"),
        "color_noise": ColorNoise(sigma=0.1, scale="stddev", divide_by=1.1),
    }
    batches = [
        augment.training_batch(
            images,
            np.arange(5),
            data=settings(8, channel_order=order, **common),
            input=network_input(3, 5),
            statistics=statistics,
            seed=0,
            epoch=0,
        )
        for order in ("rgb", "bgr")
    ]
    np.testing.assert_array_equal(batches[0][:, ::-1], batches[1])
    assert not np.array_equal(batches[0], batches[1])


def test_draws_can_be_applied_apart() -> None:
    images = pixels(5, 8, 1)
    data, input = settings(8, crop=Crop(kind="random"), flip=Flip(probability=0.5)), network_input(1, 5)
    drawn = augment.training_draws([3, 1], data=data, input=input, statistics=None, seed=0, epoch=0)
    apart = augment.apply_training(images, [3, 1], drawn, data=data, input=input, statistics=None)
    whole = augment.training_batch(images, [3, 1], data=data, input=input, statistics=None, seed=0, epoch=0)
    np.testing.assert_array_equal(apart, whole)


def test_an_empty_batch_is_empty() -> None:
    none = augment.training_batch(
        pixels(3, 8, 3),
        np.array([], np.int64),
        data=settings(8),
        input=network_input(3, 5),
        statistics=None,
        seed=0,
        epoch=0,
    )
    assert none.shape == (0, 3, 5, 5)


@pytest.mark.parametrize(
    ("data", "input", "statistics", "message"),
    [
        (
            settings(8),
            network_input(3, 9),
            None,
            "must fit into the stored image of 8 x 8. Received: an input of 9 x 9",
        ),
        (settings(9), network_input(3, 8), None, r"uint8 \(N, 9, 9, 3\). Received: uint8 \(4, 8, 8, 3\)"),
        (settings(8), network_input(1, 8), None, r"uint8 \(N, 8, 8, 1\)"),
        (settings(8, mean=Mean(kind="image")), network_input(3, 8), None, "mean: image needs the statistics"),
        (
            settings(8, color_noise=ColorNoise(sigma=0.1, scale="stddev")),
            network_input(3, 8),
            None,
            "colour noise needs the statistics",
        ),
        (settings(8), network_input(3, 8), 7, "statistics must be those of images of 3 x 8 x 8. Received: 3 x 7 x 7"),
        (settings(8, std=(1.0,)), network_input(3, 8), None, "data.std must have one value for each of 3 channels"),
        (settings(8, mean=Mean(kind="values", values=(1.0, 2.0))), network_input(3, 8), None, "data.mean.values must"),
    ],
)
def test_what_does_not_fit_together_is_refused(data: Data, input: Input, statistics: int | None, message: str) -> None:
    known = None if statistics is None else compute_statistics(pixels(2, statistics, 3))
    with pytest.raises(DataError, match=message):
        augment.training_batch(pixels(4, 8, 3), np.arange(4), data=data, input=input, statistics=known, seed=0, epoch=0)


def test_unknown_crops_are_refused() -> None:
    with pytest.raises(ValueError, match=r"crops must be 'center' or 'ten'. Received: 'five'"):
        augment.evaluation_views(settings(8), network_input(3, 8), "five")
