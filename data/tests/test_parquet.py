"""Parquet files as Hugging Face writes them; with pyarrow where it is installed, and a clear word where not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import DataError
from data.images import read_image
from data.sources import open_source, recognise
from data.tests.archives import jpeg
from data.tests.builders import storage


def test_without_pyarrow_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"package pyarrow \(pip install pyarrow\)") as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)


def opened(root: Path, **changes: Any) -> Any:
    return open_source(str(root), **{"storage": storage(16), "channels": 3, "seed": 0, **changes})


class TestWithPyarrow:
    """What needs the package."""

    @pytest.fixture(autouse=True)
    def _arrow(self) -> None:
        self.arrow = pytest.importorskip("pyarrow")
        self.parquet = pytest.importorskip("pyarrow.parquet")

    def write(
        self,
        path: Path,
        labels: list[int],
        seed: int = 0,
        names: list[str] | None = None,
        group: int = 3,
        images: list[bytes | None] | None = None,
    ) -> list[bytes | None]:
        path.parent.mkdir(parents=True, exist_ok=True)
        images = images or [jpeg(seed=seed + i) for i in range(len(labels))]
        table = self.arrow.table({
            "image": [{"bytes": content, "path": None} for content in images], "label": labels, "other": labels,
        })  # fmt: skip
        if names:
            info = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": names}}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
        self.parquet.write_table(table, path, row_group_size=group)
        return images

    def test_splits_and_classes_are_those_of_the_files(self, tmp_path: Path) -> None:
        names = ["tench", "goldfish, Carassius auratus"]
        first = self.write(tmp_path / "data" / "train-00000-of-00002.parquet", [0, 1, 1, 0, 1], 0, names)
        second = self.write(tmp_path / "data" / "train-00001-of-00002.parquet", [1, 0], 50, names)
        other = self.write(tmp_path / "data" / "validation-00000-of-00001.parquet", [1, 0, 0], 90, names)
        self.write(tmp_path / "data" / "test-00000-of-00001.parquet", [-1, -1], 90, names)
        splits = opened(tmp_path)
        assert splits.train.classes == tuple(names)
        assert splits.train.labels.tolist() == [0, 1, 1, 0, 1, 1, 0]
        assert splits.validation.labels.tolist() == [1, 0, 0]
        for received, contents in ((splits.train, first + second), (splits.validation, other)):
            for image, content in zip(received.images[:], contents, strict=True):
                np.testing.assert_array_equal(image, self.prepared(content, tmp_path))
        assert splits.description.startswith(f"Parquet files in {tmp_path}: 7 training and 3 validation images")

    def prepared(self, content: bytes | None, folder: Path) -> Any:
        path = folder / "one.jpg"
        path.write_bytes(content or b"")
        return read_image(path, storage(16), 3)

    def test_without_a_split_one_in_ten_is_held_out(self, tmp_path: Path) -> None:
        contents = self.write(tmp_path / "all.parquet", [i % 2 for i in range(60)], group=25)
        splits = opened(tmp_path, seed=4)
        assert np.bincount(splits.validation.labels).tolist() == [3, 3]
        assert "1 in 10 held out for validation, seed 4" in splits.description
        found = {image.tobytes() for part in (splits.train, splits.validation) for image in part.images[:]}
        assert found == {self.prepared(content, tmp_path).tobytes() for content in contents}
        assert splits.train.classes == ("0", "1")

    def test_a_row_without_an_image_is_named(self, tmp_path: Path) -> None:
        self.write(tmp_path / "train.parquet", [0, 1, 0, 1], images=[jpeg(), None, b"broken", jpeg(seed=1)])
        self.write(tmp_path / "val.parquet", [0, 1])
        with pytest.raises(DataError, match=r"'train.parquet, row 1' \(no image in the row\); 'train.parquet, row 2'"):
            opened(tmp_path)

    def test_rows_can_be_asked_for_in_any_order(self, tmp_path: Path) -> None:
        labels = [0, 1] * 40
        contents = self.write(tmp_path / "train-a.parquet", labels[:50], group=7)
        contents += self.write(tmp_path / "train-b.parquet", labels[50:], 100, group=30)
        self.write(tmp_path / "val.parquet", [0, 1])
        part = recognise(str(tmp_path), 0).contents().parts["train"]
        for row in [79, 0, 50, 49, 12, 12, 13, 78, 5]:
            picture = part.picture(row)
            assert not isinstance(picture, Path | np.ndarray)
            assert picture.read() == contents[row]

    @pytest.mark.parametrize(
        ("labels", "names", "message"),
        [
            ([0, 2], ["a", "b"], "labels must be those of 2 classes. Received: 0 to 2"),
            ([0, -1], ["a", "b"], "Received: -1 to 0"),
            ([0, 0], ["a"], "at least two classes"),
            ([0, 1], ["a", "a"], "different printable names"),
            ([0, 1], ["a", "b\n"], "different printable names"),
        ],
    )
    def test_labels_without_classes_are_refused(
        self, tmp_path: Path, labels: list[int], names: list[str], message: str
    ) -> None:
        self.write(tmp_path / "train.parquet", labels, names=names)
        self.write(tmp_path / "val.parquet", [0, 1], names=names)
        with pytest.raises(DataError, match=message) as caught:
            opened(tmp_path)
        assert "\n" not in str(caught.value)

    def test_damaged_files_are_named(self, tmp_path: Path) -> None:
        self.write(tmp_path / "train.parquet", [0, 1] * 20)
        self.write(tmp_path / "val.parquet", [0, 1])
        path = tmp_path / "train.parquet"
        whole = path.read_bytes()
        for content in (b"", b"PAR1", whole[:-30], whole[:1000] + whole[1200:]):
            path.write_bytes(content)
            with pytest.raises(DataError, match=r"train\.parquet") as caught:
                opened(tmp_path)
            assert "\n" not in str(caught.value)

    def test_other_columns_are_refused(self, tmp_path: Path) -> None:
        self.parquet.write_table(self.arrow.table({"text": ["a"], "label": [0]}), tmp_path / "train.parquet")
        with pytest.raises(DataError, match=r"there must be a column image or img. Received: text, label"):
            opened(tmp_path)
