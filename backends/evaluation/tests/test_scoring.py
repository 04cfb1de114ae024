"""Views, averages, ranks: what is counted, against plain loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backends.base import Array
from backends.evaluation import averaged, evaluate
from backends.evaluation.models import Model, ModelFailed
from backends.evaluation.scoring import CENTER, TEN, TOGETHER, softmax
from backends.evaluation.summary import by_class, comparisons, confusions, error_of, mistakes
from backends.tests import small
from data import Dataset, evaluation_batch
from spec import from_values

CLASSES = ("a", "b", "c", "d", "e", "f")


def network(seed: int) -> Model:
    """A linear one on crops of 6 x 6 of images of 8 x 8."""
    layers = {**small.ALEXNET, "fc8": {"op": "dense", "out_features": 6}}
    values = small.values(layers, channels=3, size=6)
    values["data"] |= {"storage": {"size": 8, "fit": "stretch"}, "mean": {"kind": "none"}, "channel_order": "bgr"}
    weights = np.random.default_rng(seed).normal(size=(3 * 36, 6))

    def predict(images: Array) -> Array:
        return images.reshape(len(images), -1) @ weights

    return Model(f"model {seed}", from_values(values), CLASSES, 6, None, predict, "numpy on cpu")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng = np.random.default_rng(3)
    return Dataset(rng.integers(0, 256, (37, 8, 8, 3), np.uint8), rng.integers(0, 6, 37), CLASSES)


def by_hand(models: list[Model], dataset: Dataset, crops: str, average: str) -> Array:
    """Scores (N, classes)."""
    scores = []
    for image in np.asarray(dataset.images):
        seen = []
        for model in models:
            views = evaluation_batch(
                image[None], data=model.spec.data, input=model.spec.input, statistics=None, crops=crops
            )[0]
            for view in views:
                logits = model.predict(view[None])[0]
                powers = np.exp(logits - logits.max())
                seen.append(powers / powers.sum() if average == "probabilities" else logits)
        scores.append(sum(seen) / len(seen))
    return np.array(scores)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("batch_size", [1, 25, 1000])
def test_every_outcome_is_what_a_loop_over_images_gives(dataset: Dataset, average: str, batch_size: int) -> None:
    models = [network(1), network(2)]
    outcomes = evaluate(models, [dataset] * 2, crops=TEN, average=average, batch_size=batch_size)
    who = {"model 1": models[:1], "model 2": models[1:], TOGETHER: models}
    assert [(o.who, o.crops) for o in outcomes] == [(name, crops) for crops in (CENTER, TEN) for name in who]
    for outcome in outcomes:
        scores = by_hand(who[outcome.who], dataset, outcome.crops, average)
        own = scores[np.arange(37), dataset.labels]
        assert outcome.ranks.tolist() == (scores > own[:, None]).sum(axis=1).tolist()
        assert outcome.answers.tolist() == scores.argmax(axis=1).tolist()
        expected = (scores if average == "probabilities" else softmax(scores)).max(axis=1)
        np.testing.assert_allclose(outcome.confidences, expected, rtol=1e-12)


def test_averaging_probabilities_is_not_averaging_logits() -> None:
    views = np.array([[[30.0, 0.0], [0.0, 2.0], [0.0, 2.0]]])  # one view is very sure, two are of another opinion
    assert averaged(views, "probabilities").argmax() == 1
    assert averaged(views, "logits").argmax() == 0


def test_scores_that_are_not_finite_are_a_failure(dataset: Dataset) -> None:
    broken = replace(network(1), predict=lambda images: np.full((len(images), 6), np.nan))
    with pytest.raises(ModelFailed, match="must be finite"):
        evaluate([broken], [dataset], crops=CENTER, average="logits", batch_size=8)


def test_tables_add_up(dataset: Dataset) -> None:
    outcome = evaluate([network(1)], [dataset], crops=CENTER, average="logits", batch_size=8)[-1]
    rows, whole = by_class(outcome, dataset.labels), error_of(outcome, 1)
    assert sum(row.top1.images for row in rows) == whole.images == 37
    every = confusions(outcome, dataset.labels, 99)
    assert sum(row.top1.wrong for row in rows) == whole.wrong == sum(confusion.times for confusion in every)
    pairs = list(zip(dataset.labels.tolist(), outcome.answers.tolist(), strict=True))
    for confusion in every:
        assert pairs.count((confusion.label, confusion.answer)) == confusion.times
        assert confusion.share == confusion.times / dataset.labels.tolist().count(confusion.label)
    for row in rows:
        taken = [b for a, b in pairs if a == row.number and b != a]
        assert row.mostly is None if not taken else taken.count(row.mostly) == max(map(taken.count, taken))
    worst = mistakes(outcome)
    assert sorted(worst) == [i for i, (a, b) in enumerate(pairs) if a != b]
    assert (np.diff(outcome.confidences[worst]) <= 0).all()


def test_comparisons_are_of_the_last_outcome(dataset: Dataset) -> None:
    outcomes = evaluate([network(1), network(2)], [dataset] * 2, crops=TEN, average="logits", batch_size=500)
    found = comparisons(outcomes)
    assert [(c.first, c.second) for c in found] == [
        ("the central crop", "ten crops"), ("model 1", TOGETHER), ("model 2", TOGETHER)
    ]  # fmt: skip
    assert found[0].top1.difference == pytest.approx(error_of(outcomes[2], 1).error - error_of(outcomes[5], 1).error)
    assert found[1].top1.difference == pytest.approx(error_of(outcomes[3], 1).error - error_of(outcomes[5], 1).error)
    assert comparisons(outcomes[:1]) == ()
