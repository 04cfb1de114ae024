"""What public checks let through, as it stands in evidence: the baseline beside the kill table."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Survivor(_Part):
    """What public checks notice of one mutant; see :class:`conformance.mutants.public_checks.Survival`."""

    mutant: str
    node_tests_failed: tuple[str, ...]
    model_passed: bool | None
    shapes_kept: bool

    @property
    def noticed(self) -> list[str]:
        """The public checks that it does not survive."""
        model = ["the model test"] * (self.model_passed is False)
        return [*self.node_tests_failed, *model, *["a check of shapes"] * (not self.shapes_kept)]


class Public(_Part):
    """What they notice of the mutants of one backend."""

    backend: str
    node_tests: int
    model_test: bool
    mutants_of_other_things: int
    mutants: tuple[Survivor, ...]


LET_THROUGH = (
    "Of the same wrong implementations, those whose outputs in evaluation are wrong survive the node tests of ONNX, "
    "its model test of AlexNet and a check of shapes as follows; at anything else no public check looks."
)
BASELINE = (
    "backend",
    "mutants",
    "survive the node tests",
    "the model test",
    "a check of shapes",
    "all three",
    "others",
)


def baseline(public: Sequence[Public]) -> list[tuple[str, ...]]:
    """Of each backend: mutants of the outputs, how many survive what, and mutants where nobody looks."""
    rows = []
    for one in public:
        found = one.mutants
        model = str(sum(m.model_passed is True for m in found)) if one.model_test else "n/a"
        counts = (sum(not m.node_tests_failed for m in found), sum(m.shapes_kept for m in found))
        every = sum(not m.noticed for m in found)
        beyond = one.mutants_of_other_things
        rows.append((one.backend, *map(str, (len(found), counts[0], model, counts[1], every, beyond))))
    return rows
