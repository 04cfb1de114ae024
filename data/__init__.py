"""From photographs to batches: sources, preparation, statistics, augmentation. See ``README.md`` beside this file."""

from __future__ import annotations

from alexnet_rooms import require_own_rooms

require_own_rooms("data", "spec")

from data.augment import (  # noqa: E402
    Draws,
    Known,
    apply_training,
    evaluation_batch,
    evaluation_views,
    training_batch,
    training_draws,
)
from data.batches import Batch, epoch_order, evaluation_batches, steps_per_epoch, training_batches  # noqa: E402
from data.cache import default_cache_dir  # noqa: E402
from data.dataset import Dataset, Splits, fingerprint  # noqa: E402
from data.errors import DataError  # noqa: E402
from data.sources import EMBEDDED, PHOTO_PATCHES, open_source  # noqa: E402
from data.statistics import Statistics, compute_statistics, dataset_statistics  # noqa: E402

__all__ = [
    "EMBEDDED",
    "PHOTO_PATCHES",
    "Batch",
    "DataError",
    "Dataset",
    "Draws",
    "Known",
    "Splits",
    "Statistics",
    "apply_training",
    "compute_statistics",
    "dataset_statistics",
    "default_cache_dir",
    "epoch_order",
    "evaluation_batch",
    "evaluation_batches",
    "evaluation_views",
    "fingerprint",
    "open_source",
    "steps_per_epoch",
    "training_batch",
    "training_batches",
    "training_draws",
]
