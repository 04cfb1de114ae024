"""Every mutant is far from the oracle on its witness, and the backend without it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from alexnet_rooms import ROOT
from conformance.mutants import CATALOGUE, Mutant
from conformance.mutants.__main__ import BACKENDS
from conformance.mutants.countable import AGREEMENT, DIFFERENCE, Proof, agreement, prove

HERE = [mutant for mutant in CATALOGUE if mutant.target != "keras"]
KERAS = [mutant.name for mutant in CATALOGUE if mutant.target == "keras"]
SHARES = {"keras-tensorflow": KERAS[::12], "keras-jax": KERAS[6::12]}
"""Of each dozen of Keras' mutants one runs on TensorFlow here and one on JAX; ``symptoms_keras.py`` runs the others on
PyTorch, which compiles nothing."""


@pytest.mark.parametrize("mutant", HERE, ids=lambda mutant: mutant.name)
def test_the_mutant_differs_and_the_backend_does_not(mutant: Mutant) -> None:
    (backend,) = BACKENDS[mutant.target]
    proof = prove(mutant, backend)
    assert proof.unchanged <= AGREEMENT[proof.dtype], proof
    assert proof.mutated >= DIFFERENCE, proof


def test_nothing_is_left_behind() -> None:
    """After all mutants have been applied in this process, and undone, every witness agrees as before."""
    agreement.cache_clear()
    seen = {(mutant.witness, mutant.expected_check, *BACKENDS[mutant.target]) for mutant in HERE}
    bound = {backend: AGREEMENT["float32" if backend == "onnx" else "float64"] for *_, backend in seen}
    assert [case for case in sorted(seen) if agreement(*case)[1] > bound[case[2]]] == []


@pytest.mark.parametrize("backend", SHARES)
def test_mutants_of_keras_differ_on_every_framework(backend: str) -> None:
    """In a process of its own, as Keras cannot change its framework."""
    done = subprocess.run(
        [sys.executable, "-m", "conformance.mutants", "countable", "--backend", backend, *SHARES[backend]],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    proofs = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [proof["mutant"] for proof in proofs] == SHARES[backend], done.stderr[-2000:]
    assert [proof for proof in proofs if not proof["countable"]] == []
    assert done.returncode == 0


def test_agreement_without_difference_does_not_count() -> None:
    close = Proof("m", "torch", "float64", unchanged=1e-15, mutated=1e-8, where="x")
    apart = Proof("m", "torch", "float64", unchanged=1e-3, mutated=1.0, where="x")
    assert not close.countable
    assert not apart.countable
    assert Proof("m", "onnx", "float32", unchanged=1e-7, mutated=1e-2, where="x").countable
