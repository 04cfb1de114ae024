"""The variants against the files they were transcribed from, and every pointer into a repository looked up in it.

Runs where ``ALEXNET_SOURCES`` names a folder of clones (see ``originals.py``); without it most tests are skipped.
"""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

import spec
from spec.importers import SECTIONS, TRANSCRIBED, compare, import_files
from spec.importers.pairs import FOLDERS, pairs, table
from spec.sources import SOURCES, file_pointers, missing
from spec.tests.originals import VARIABLE, clone, extract, needs
from spec.tests.test_variants import pointers

VARIANTS = {
    "145": "source-2012",
    "145-half": "source-2012-half",
    "147": "source-2012-nonoverlap",
    "148": "source-2012-nolrn",
    "150": "source-2012-nocomm",
    "146-2012-2011": "source-2012-conv6",
}


@pytest.fixture(scope="module")
def chm(tmp_path_factory):
    """The definitions of the 2012 source."""
    folder = tmp_path_factory.mktemp("chm")
    for name in FOLDERS:
        extract("CHM", name, folder)
    return folder


@needs("CHM")
@pytest.mark.parametrize(("number", "variant"), VARIANTS.items())
def test_the_originals_of_2012_are_the_variants_value_for_value(chm, number, variant):
    files = [chm / "layers" / f"{what}-{number}.cfg" for what in ("layers", "layer-params")]
    assert compare(import_files(files).spec, spec.load(variant)) == []


@needs("CHM")
def test_both_parameter_files_of_number_145_agree(chm):
    files = [chm / "layers" / "layers-145.cfg", chm / "layers" / "layer-params-145-2010.cfg"]
    assert compare(import_files(files).spec, spec.load("source-2012")) == []


@needs("CHM")
def test_the_original_for_cifar_is_the_variant_value_for_value(chm):
    files = [chm / "example-layers" / f"{what}-conv-local-13pct.cfg" for what in ("layers", "layer-params")]
    assert compare(import_files(files, (3, 32, 32)).spec, spec.load("cifar-13pct")) == []


@needs("CHM")
def test_the_table_of_the_originals_is_what_importing_them_gives(chm):
    committed = Path(spec.__file__).parent / "importers" / "CHM-pairs.md"
    assert len(pairs(chm, "layers")) == 59
    assert table(chm) == committed.read_text(encoding="utf-8")


@needs("CHM")
def test_every_recorded_result_of_number_145_and_its_ablations_is_data(chm):
    files = [path for number in (145, 146, 147, 148, 150) for path in chm.glob(f"layers/layer-params-{number}*.cfg")]
    noted = re.compile(r"^#.*logprob:\s*([\d.]+), ([\d.]+), ([\d.]+)", re.MULTILINE)
    recorded = {tuple(map(float, run)) for path in files for run in noted.findall(path.read_text())}
    results = [result for name in VARIANTS.values() for result in spec.load(name).expect.results]
    assert len(recorded) == 10
    assert recorded <= {(result.loss, result.top1_error, result.top5_error) for result in results}


@needs("CC2")
@pytest.mark.parametrize(
    ("name", "shape", "variant", "sections"),
    [
        ("imagenet-1gpu", (3, 224, 224), "owt-2014", (*TRANSCRIBED, "learning rate")),
        ("cifar10-11pct", (3, 24, 24), "cifar-11pct", TRANSCRIBED),
    ],
)
def test_the_originals_of_cuda_convnet2_are_the_variants_value_for_value(tmp_path, name, shape, variant, sections):
    folder = extract("CC2", "layers", tmp_path) / "layers"
    files = [folder / f"{what}-{name}.cfg" for what in ("layers", "layer-params")]
    assert compare(import_files(files, shape).spec, spec.load(variant), sections) == []


@needs("CAFFE")
@pytest.mark.parametrize(
    ("model", "variant"), [("bvlc_reference_caffenet", "caffenet"), ("bvlc_alexnet", "caffe-alexnet")]
)
def test_the_originals_of_caffe_are_the_variants_in_every_section(tmp_path, model, variant):
    folder = extract("CAFFE", f"models/{model}", tmp_path) / "models" / model
    imported = import_files([folder / "train_val.prototxt", folder / "solver.prototxt"])
    assert compare(imported.spec, spec.load(variant), SECTIONS) == []


def test_pointers_into_pytorch_hold_in_the_installed_one():
    """Where it is the version that they name; its modules are read and not imported."""
    try:
        installed = distribution("torch")
    except PackageNotFoundError:
        pytest.skip("PyTorch is not installed")
    if installed.version.split("+")[0] != SOURCES["TORCH"].title.split()[-1]:
        pytest.skip("another PyTorch is installed")
    place, root = SOURCES["TORCH"].place, Path(str(installed.locate_file("")))
    found = {one for _, source in pointers() for one in file_pointers(source) if one.repository == place}
    assert len(found) > 5
    wrong = [absent for one in found for absent in missing(one, lambda _, __, path: (root / path).read_text("utf-8"))]
    assert wrong == []


@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no folder of clones")
def test_pointers_hold_in_the_sources_themselves():
    @cache
    def read(repository: str, commit: str, path: str) -> str:
        argv = ["git", "-C", str(clone(repository)), "show", f"{commit}:{path}"]
        return subprocess.run(argv, capture_output=True, check=True).stdout.decode("utf-8", "replace")

    wrong, looked_up = [], 0
    for place, source in pointers():
        for pointer in file_pointers(source):
            if clone(pointer.repository):
                looked_up += len(pointer.locations)
                wrong += [f"{place}: {absent}" for absent in missing(pointer, read)]
    assert wrong == []
    assert looked_up > 0
