"""How long a query takes among many items: as float vectors, by brute force, and as codes of bits.

Run as ``python -m experiments.search FOLDER``, in a process of its own with one thread: faiss and the frameworks each
bring their own OpenMP. FOLDER holds ``items.npy`` (N, F) and ``queries.npy`` (Q, F), float32, and for every number of
bits B ``codes-B.npy`` (N, B / 8), uint8, and ``encoder-B.npz``, what makes codes of queries (W, b, mean and scale of
:mod:`experiments.autoencoder`). It receives ``times.json`` and what was found, ``found-float.npy`` and
``found-B.npy``, int64 (Q, K).

Two ways of brute force are timed, and the faster one counts: faiss's ``IndexFlatL2``, and products by BLAS with
``numpy.argpartition``. Codes are searched by faiss's ``IndexBinaryFlat``, which looks at every code too; encoding
the query is part of the time. Methods take turns, ROUNDS times, and the medians are kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_rooms import ROOT
from experiments.autoencoder import Autoencoder

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

K = 10
ROUNDS, SINGLES, BATCH = 5, 15, 64
"""Each round times so many single queries and one batch."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
FLAT, BLAS = "faiss IndexFlatL2", "products by BLAS"


class SearchFailed(ChildProcessError):
    """The process could not be asked; the message is the last thing it said."""


@dataclass(frozen=True, eq=False)
class Searched:
    """What the process found."""

    seconds: dict[str, dict[str, float]]
    """By method (FLAT, BLAS, ``128`` ...): `single`, one query alone, and `batch`, one of BATCH at once."""
    found: dict[str, I64]
    """By ``float`` and number of bits: (Q, K) items."""

    def brute(self, how: str) -> float:
        """The seconds of a query by the faster of the two ways of brute force. how: single or batch."""
        return min(self.seconds[name][how] for name in (FLAT, BLAS))


def search(items: F32, queries: F32, encoders: Mapping[int, Autoencoder]) -> Searched:
    """Measure in a process of its own. Raises SearchFailed."""
    with tempfile.TemporaryDirectory(prefix="alexnet-search-") as name:
        folder = Path(name)
        np.save(folder / "items.npy", items)
        np.save(folder / "queries.npy", queries)
        for bits, encoder in encoders.items():
            np.save(folder / f"codes-{bits}.npy", encoder.codes(items))
            parts: dict[str, Any] = {"mean": encoder.mean, "scale": encoder.scale, **encoder.parameters}
            np.savez(folder / f"encoder-{bits}.npz", **parts)
        command = [sys.executable, "-m", "experiments.search", name]
        environment = {**os.environ, **ONE_THREAD}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace")
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise SearchFailed(said[-1] if said else f"its process ended with exit code {done.returncode}")
        found = {key: np.load(folder / f"found-{key}.npy") for key in ("float", *map(str, encoders))}
        return Searched(json.loads((folder / "times.json").read_text()), found)


# --- in the process of its own ----------------------------------------------------------------------------------------

Method = Callable[[F32], I64]
"""Queries (n, F) to items (n, K)."""


def _main(folder: Path) -> None:
    import faiss

    faiss.omp_set_num_threads(1)
    items, queries = np.load(folder / "items.npy"), np.load(folder / "queries.npy")
    flat = faiss.IndexFlatL2(items.shape[1])
    flat.add(items)
    methods: dict[str, Method] = {FLAT: lambda q: flat.search(q, K)[1], BLAS: _by_products(items)}
    for path in sorted(folder.glob("codes-*.npy")):
        bits = path.stem.partition("-")[2]
        methods[bits] = _by_codes(faiss, np.load(path), folder / f"encoder-{bits}.npz")
    (folder / "times.json").write_text(json.dumps(_times(methods, queries)))
    for name, method in methods.items():
        if name != FLAT:
            found = np.concatenate([method(queries[i : i + BATCH]) for i in range(0, len(queries), BATCH)])
            np.save(folder / f"found-{'float' if name == BLAS else name}.npy", found)


def _by_products(items: F32) -> Method:
    norms = (items**2).sum(axis=1)

    def found(queries: F32) -> I64:
        squares = norms - 2 * (queries @ items.T)  # without |q|^2, which changes no order
        near = np.argpartition(squares, K, axis=1)[:, :K]
        order = np.take_along_axis(squares, near, axis=1).argsort(axis=1, kind="stable")
        return np.take_along_axis(near, order, axis=1)

    return found


def _by_codes(faiss: Any, codes: U8, encoder: Path) -> Method:
    index = faiss.IndexBinaryFlat(8 * codes.shape[1])
    index.add(codes)
    with np.load(encoder) as file:
        made = Autoencoder(file["mean"], float(file["scale"]), {name: file[name] for name in "WbVc"}, 0.0)
    return lambda queries: index.search(made.codes(queries), K)[1]


def _times(methods: Mapping[str, Method], queries: F32) -> dict[str, dict[str, float]]:
    taken: dict[str, dict[str, list[float]]] = {name: {"single": [], "batch": []} for name in methods}
    for turn in range(ROUNDS):
        for name, method in methods.items():
            for i in range(SINGLES):
                at = (turn * SINGLES + i) % len(queries)
                taken[name]["single"].append(_seconds(method, queries[at : at + 1]))
            batch = np.ascontiguousarray(np.resize(queries, (BATCH, queries.shape[1])))
            taken[name]["batch"].append(_seconds(method, batch) / BATCH)
    return {name: {how: float(np.median(values)) for how, values in both.items()} for name, both in taken.items()}


def _seconds(method: Method, queries: F32) -> float:
    began = time.perf_counter()
    method(queries)
    return time.perf_counter() - began


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
