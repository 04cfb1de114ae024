"""What is asked of a backend, and what it must answer. Every check has a name, under which mutants are killed.

An :class:`Examination` is one case with everything expected of any backend in one arithmetic, worked out when it is
first needed and kept for the next backend.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from backends.base import Array, Arrays, Metrics, tally
from backends.numpy.optimizer import update
from conformance import data_checks, file_checks, literal
from conformance.bounds import EXTREME, MIXED, SAFETY, Arithmetic, carrier, update_rounding
from conformance.cases import NONLINEAR, Case, NoSafeCase, Scale, build
from conformance.comparison import Derived, Finding, compare, compare_all
from conformance.oracle import INPUT, Expected, Oracle
from conformance.training import Course, Way, course, drawn_velocities, plan
from spec import Settings, Spec, geometry

SATURATED = 60.0
"""Scale of logits at which exp underflows in float32 and a probability of 1 is 1."""
SEEDS = {"float64": 20, "float32": 20, "bfloat16": 3, MIXED: 3}
"""How many seeds are tried for a case on which every decision is safe. In bfloat16 most ReLUs have some number within
reach of rounding whatever one draws."""

GATHERED, PIECES = 5, 2
"""Images of a batch that is taken in pieces, and how many these are: one has three images, the other two."""


T = TypeVar("T")


def _once(method: Callable[[Examination], Any]) -> Any:
    """A property that is worked out once, whichever thread asks first."""
    name = method.__name__

    def value(self: Examination) -> Any:
        with self.lock:
            if name not in self.known:
                try:
                    self.known[name] = method(self)
                except NoSafeCase as error:  # as costly to find out again
                    self.known[name] = error
            if isinstance(self.known[name], NoSafeCase):
                raise self.known[name]
            return self.known[name]

    return property(value, doc=method.__doc__)


@dataclass(frozen=True)
class Job:
    """One specification to be examined in one dtype."""

    spec: Spec
    dtype: str = "float32"
    full: bool = False
    """The network is too large for free runs of training: one step is expected from the gradients instead, and fewer
    perturbed runs are made."""
    seed: int = 0
    images: int = 2
    whole: bool = False
    """Images of whole numbers; see :func:`conformance.specs.ties`."""
    steps: int = 0
    """Of the trajectory; 0: none is asked for."""
    loud: bool = False
    """In front of a response normalisation over channels one channel is much larger than the others."""
    tied: bool = False
    """Training starts from logits that are all equal, so that only their order says which are the best."""


class Examination:
    """A job with everything that is expected of any backend, each part worked out when it is first asked for."""

    def __init__(self, job: Job, running_sum_lrn: bool = False) -> None:
        self.job, self.spec, self.dtype = job, job.spec, job.dtype
        self.arithmetic = Arithmetic(job.dtype, running_sum_lrn)
        self.carrier = carrier(job.dtype)
        self.lock, self.known = threading.RLock(), dict[str, Any]()
        self.replicas = 3 if job.full else 8

    @_once
    def running(self) -> Examination:
        """The same for a backend that normalises by a running sum: it has bounds of its own."""
        normalises = any(layer.op == "lrn" for layer in self.spec.layers)
        return Examination(self.job, running_sum_lrn=True) if normalises else self

    def _safe(self, make: Callable[[int], T]) -> T:
        for attempt in range(SEEDS[self.dtype]):
            try:
                return make(self.job.seed + 1000 * attempt)
            except NoSafeCase as error:
                last = error
        raise last

    def _built(self, scale: Scale) -> Callable[[int], Case]:
        job = self.job
        return lambda seed: build(
            job.spec, seed, images=job.images, arithmetic=self.arithmetic, scale=scale, whole=job.whole
        )

    @_once
    def case(self) -> Case:
        return self._safe(self._built(replace(NONLINEAR, loud=self.job.loud)))

    def _oracle(self, case: Case, parameters: Arrays, training: bool) -> Oracle:
        masks = case.masks if training else None
        return Oracle(
            case.spec, parameters, case.images, masks, self.arithmetic, replicas=self.replicas, seed=case.seed
        )

    @_once
    def _wide(self) -> dict[str, Array]:
        """The parameters in float64, shared by all oracles."""
        return {name: value.astype(np.float64) for name, value in self.case.parameters.items()}

    @_once
    def evaluation(self) -> Oracle:
        return self._oracle(self.case, self._wide, training=False)

    @_once
    def training(self) -> Oracle:
        return self._oracle(self.case, self._wide, training=True)

    @_once
    def gradients(self) -> dict[str, Expected]:
        oracle: Oracle = self.training
        return oracle.gradients(self.case.cotangent)

    @_once
    def evaluation_gradients(self) -> dict[str, Expected]:
        oracle: Oracle = self.evaluation
        return oracle.gradients(self.case.cotangent)

    @_once
    def loss_gradients(self) -> dict[str, Expected]:
        oracle: Oracle = self.training
        return oracle.loss_gradients(self.case.labels)

    @_once
    def saturated(self) -> tuple[Case, Expected]:
        """A case whose logits saturate the softmax, and its loss."""
        case = self._safe(self._built(Scale(logits=SATURATED)))
        return case, self._oracle(case, case.parameters, training=False).loss(case.labels)

    def _course(self, way: Way, logits: float = 1.0, images: int | None = None) -> Course:
        """Training on numbers at which the recipe is stable."""
        unit, count = self._built(Scale(responsive=False, logits=logits)), images or self.job.images
        return self._safe(
            lambda seed: course(unit(seed), self.arithmetic, replicas=self.replicas, images=count, way=way)
        )

    @_once
    def course(self) -> Course:
        """A few steps."""
        return self._course(Way(), 0.0 if self.job.tied else 1.0)

    @_once
    def gathered(self) -> Course:
        """The same of batches that can be taken in pieces."""
        return self._course(Way(), images=GATHERED)

    @_once
    def trajectory(self) -> Course:
        """Many steps: free in float64, where rounding stays small; each from the oracle's state otherwise."""
        return self._course(Way(self.job.steps, restarted=self.dtype != "float64"))

    @_once
    def free_run(self) -> Course:
        """Many steps whose decisions may turn."""
        return self._course(Way(self.job.steps, safe=False))


Findings = Iterator[Finding]


def _outputs(name: str, e: Examination, backend: Any, training: bool) -> Findings:
    case, oracle = e.case, e.training if training else e.evaluation
    backend.load(case.parameters)
    found = backend.outputs(case.images, case.masks) if training else backend.outputs(case.images)
    yield from compare_all(name, found, oracle.outputs(), e.carrier, tensor="the output of {}")


def evaluation_outputs(e: Examination, backend: Any) -> Findings:
    """Every layer's output in evaluation."""
    yield from _outputs("evaluation-outputs", e, backend, training=False)


def prediction(e: Examination, backend: Any) -> Findings:
    """The logits of predict."""
    backend.load(e.case.parameters)
    logits = list(e.evaluation.outputs().values())[-1]
    found = backend.predict(e.case.images)
    yield compare("prediction", "the logits of predict", found, logits, e.carrier, "vector")


def training_outputs(e: Examination, backend: Any) -> Findings:
    """Every layer's output in training, under given dropout masks."""
    yield from _outputs("training-outputs", e, backend, training=True)


def _gradients(name: str, e: Examination, backend: Any, training: bool) -> Findings:
    case = e.case
    oracle, expected = (e.training, e.gradients) if training else (e.evaluation, e.evaluation_gradients)
    backend.load(case.parameters)
    found = backend.gradients(case.images, case.cotangent, case.masks if training else None)
    logits = list(oracle.outputs().values())[-1]
    yield compare(name, "the logits returned with the gradients", found.logits, logits, e.carrier, "vector")
    received = {**found.parameters, INPUT: found.input}
    yield from compare_all(name, received, expected, e.carrier, tensor="the gradient of {}")


def training_gradients(e: Examination, backend: Any) -> Findings:
    """The gradients of <random cotangent, logits> by every parameter and the input, in training, last layer first."""
    yield from _gradients("training-gradients", e, backend, training=True)


def evaluation_gradients(e: Examination, backend: Any) -> Findings:
    """The same in evaluation."""
    yield from _gradients("evaluation-gradients", e, backend, training=False)


def loss(e: Examination, backend: Any) -> Findings:
    """The loss in evaluation and in training, and of logits that saturate the softmax."""
    case = e.case
    backend.load(case.parameters)
    for what, oracle, masks in (("evaluation", e.evaluation, None), ("training", e.training, case.masks)):
        found = backend.loss(case.images, case.labels, masks)
        yield compare("loss", f"the loss in {what}", found, oracle.loss(case.labels), None, "vector")
    case, expected = e.saturated
    backend.load(case.parameters)
    found = backend.loss(case.images, case.labels, None)
    yield compare("loss", "the loss of saturated logits", found, expected, None, "vector")


def one_step(e: Examination, backend: Any) -> Findings:
    """Parameters and velocities after one step from velocities that are not zero, expected from the gradients."""
    case = e.case
    # The settings after the first change of the recipe: the velocities stand for those of before.
    settings = plan(e.spec)[-1 if len(plan(e.spec)) < 3 else 2]
    velocities = drawn_velocities(case, e.dtype)
    backend.load(case.parameters, velocities)
    backend.step(case.images, case.labels, settings, case.masks)
    gradients: dict[str, Expected] = e.loss_gradients
    order = [name for name in gradients if name != INPUT]
    for what, found in (("velocity", backend.velocities()), ("parameter", backend.parameters())):
        expected = {
            name: _updated(what, case.parameters[name], velocities[name], gradients[name], settings[name], e)
            for name in order
        }
        yield from compare_all("one-step", found, expected, e.carrier, tensor=f"the {what} {{}}")


def _updated(what: str, w: Array, v: Array, g: Expected, settings: Settings, e: Examination) -> Derived:
    """What one parameter or its velocity is after a step from w and v by a gradient that is known to a bound."""
    optimizer = e.spec.training.optimizer
    which = ("parameter", "velocity").index(what)
    # How far an error of the gradient carries: into the velocity, and from there into the parameter.
    rate = settings.learning_rate
    carried = rate if what == "parameter" or optimizer.learning_rate_in_velocity else float(not settings.frozen)

    def part(rows: slice) -> Expected:
        old_w, old_v, gradient = np.asarray(w[rows], np.float64), np.asarray(v[rows], np.float64), g.part(rows)
        new = update(old_w, old_v, gradient.value, settings, optimizer)[which]
        if settings.frozen:
            return Expected(new, np.zeros((1,) * new.ndim))
        lost = update_rounding(old_w, old_v, gradient.value, settings, optimizer, e.arithmetic)[which]
        return Expected(new, carried * gradient.bound + SAFETY * EXTREME * lost)

    return Derived(w.shape, part)


def training_steps(e: Examination, backend: Any) -> Findings:
    """Parameters, velocities and metrics after every step of a run across the changes of the recipe."""
    yield from _followed("training-steps", e, backend, e.course)


def accumulation(e: Examination, backend: Any) -> Findings:
    """The same where every batch is taken in pieces that are not of one size: the oracle takes it at once."""
    backend.accumulate(PIECES)
    try:
        yield from _followed("accumulation", e, backend, e.gathered)
    finally:
        backend.accumulate(1)


def _followed(name: str, e: Examination, backend: Any, run: Course) -> Findings:
    backend.load(run.parameters, run.velocities)
    for number, (batch, state) in enumerate(zip(run.batches, run.states, strict=True), 1):
        if batch.start is not None:
            backend.load(*batch.start)
        backend.step(batch.images, batch.labels, batch.settings, batch.masks)
        yield from _metrics(name, backend.metrics(), state, batch.labels, number)
        after = f"after step {number}"
        for what, found, expected in (
            ("velocity", backend.velocities(), state.velocities),
            ("parameter", backend.parameters(), state.parameters),
        ):
            yield from compare_all(name, found, expected, e.carrier, tensor=f"the {what} {{}} {after}")


def trajectory(e: Examination, backend: Any) -> Findings:
    """Many steps, with every parameter and velocity after each: a free run in float64; in what has fewer digits every
    step from the oracle's state, since free runs part whatever one does."""
    if e.job.steps:
        yield from _followed("trajectory", e, backend, e.trajectory)


def free_run(e: Examination, backend: Any) -> Findings:
    """Says where a free run first leaves the envelope of perturbed runs of the oracle. It cannot fail."""
    if not e.job.steps or e.dtype == "float64":
        return
    nearest: Finding | None = None
    of = f"the envelope of {e.job.steps} steps"
    for finding in _followed("free-run", e, backend, e.free_run):
        if not finding.passed:
            yield replace(finding, tensor=f"{of}, left by {finding.tensor}", fault=None)
            return
        if nearest is None or finding.ratio > nearest.ratio:
            nearest = finding
    if nearest is not None:
        yield replace(nearest, tensor=f"{of}, never left; nearest to it {nearest.tensor}")


def _metrics(name: str, found: Metrics, state: Any, labels: Any, number: int) -> Findings:
    """The mean loss, and hits that are sure whatever rounding does."""
    of = f"of step {number}"
    images = len(labels)
    counted = Expected(np.asarray(float(images)), np.zeros(()))
    yield compare(name, f"the number of images {of}", float(found.images), counted, None, "vector")
    mean = found.loss / max(found.images, 1)
    yield compare(name, f"the mean loss {of}", mean, state.loss, None, "vector")
    kept = Expected(np.full(1, float(state.loss.value)), state.loss.bound)
    yield compare(name, f"the list of losses {of}", np.array(found.losses), kept, None, "vector")
    for k, correct in ((1, found.correct1), (5, found.correct5)):
        least, most = _hits(state.logits, labels, k)
        reach = (most - least) / 2 + (0.25 if most > least else 0.0)  # both ends are as right as the middle
        middle = Expected(np.asarray((least + most) / 2), np.asarray(reach))
        yield compare(name, f"the hits among the best {k} {of}", float(correct), middle, None, "vector")


def _hits(logits: Expected, labels: Array, k: int) -> tuple[int, int]:
    """How many labels are among the best k at least and at most; where nothing was rounded, ties go by class."""
    if not logits.bound.any():
        exact = tally(logits.value, labels)
        hits = exact.correct1 if k == 1 else exact.correct5
        return hits, hits
    own = logits.value[np.arange(len(labels)), labels][:, None]
    others = np.arange(logits.shape[1])[None, :] != np.asarray(labels)[:, None]
    surely = ((logits.value > own + 2 * logits.bound) & others).sum(axis=1)
    possibly = ((logits.value >= own - 2 * logits.bound) & others).sum(axis=1)
    return int((possibly < k).sum()), int((surely < k).sum())


@dataclass(frozen=True)
class Check:
    """One question."""

    run: Callable[[Examination, Any], Findings]
    trains: bool
    """Only a backend that trains can answer it."""
    full: bool
    """Asked of networks at full size. Frameworks compile for every question, so that there the fewest are asked that
    reach every operation forward, backward and in the optimizer."""
    small: bool = True
    """Asked of small networks."""
    named: bool = False
    """Asked only by name: of the few networks that are made for it, or by who wants to know."""

    def asked(self, full: bool, name: str, only: tuple[str, ...] | None) -> bool:
        """Whether it is asked of networks of this size, and was asked for."""
        return (self.full if full else self.small) and (not self.named if only is None else name in only)


CHECKS: dict[str, Check] = {
    "initialisation": Check(literal.initialisation, trains=True, full=False),
    "draws": Check(literal.draws, trains=True, full=False),
    "schedule": Check(literal.schedule, trains=True, full=False),
    "evaluation-outputs": Check(evaluation_outputs, trains=False, full=True),
    "prediction": Check(prediction, trains=False, full=False),
    "training-outputs": Check(training_outputs, trains=True, full=False),
    "training-gradients": Check(training_gradients, trains=True, full=True),
    "evaluation-gradients": Check(evaluation_gradients, trains=True, full=False),
    "loss": Check(loss, trains=True, full=False),
    "one-step": Check(one_step, trains=True, full=True, small=False),
    "training-steps": Check(training_steps, trains=True, full=False),
    "accumulation": Check(accumulation, trains=True, full=False, named=True),
    "device-draws": Check(literal.device_draws, trains=True, full=False, named=True),
    "trajectory": Check(trajectory, trains=True, full=False),
    "free-run": Check(free_run, trains=True, full=False),
    "stored-images": Check(data_checks.stored_images, trains=False, full=False),
    "training-images": Check(data_checks.training_images, trains=True, full=False),
    "evaluation-images": Check(data_checks.evaluation_images, trains=False, full=False),
    "scores": Check(data_checks.scores, trains=False, full=False),
    file_checks.EXPORT: Check(file_checks.export, trains=False, full=False, named=True),
    file_checks.IMPORT: Check(file_checks.import_, trains=False, full=False, named=True),
}
"""In the order in which they are asked: what one rests on comes before it."""


class Held:
    """A backend that is not made to load again what it holds."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._parameters: Arrays | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def load(self, parameters: Arrays, velocities: Arrays | None = None) -> None:
        if velocities is not None or parameters is not self._parameters:
            self._backend.load(parameters, velocities)
            self._parameters = parameters

    def step(self, *arguments: Any) -> None:
        self._parameters = None
        self._backend.step(*arguments)


def examine(e: Examination, backend: Any, *, trains: bool, only: tuple[str, ...] | None = None) -> list[Finding]:
    """Ask `backend` everything that applies, in order. Raises what its process raises."""
    findings: list[Finding] = []
    held = Held(backend)
    for name, check in CHECKS.items():
        if check.asked(e.job.full, name, only) and (trains or not check.trains):
            findings += check.run(e, held)
    return findings


def first_fault(findings: list[Finding]) -> Finding | None:
    """The first finding that is wrong, in the order of the network and of the checks."""
    return next((finding for finding in findings if not finding.passed), None)


def verdict(backend: str, spec: Spec, dtype: str, findings: list[Finding]) -> str | None:
    """None if all is right, else what diverges first and how much before it is right, in sentences."""
    fault = first_fault(findings)
    if fault is None:
        return None
    before = findings[: findings.index(fault)]
    digits = min((finding.digits for finding in before), default=None)
    wrong = sum(not finding.passed for finding in findings)
    kept = " It is the first that was compared."
    if digits is not None:
        many = f"{len(before)} tensors agree" if len(before) > 1 else "1 tensor agrees"
        kept = f" Before it, {many} {'exactly' if digits == np.inf else f'to {digits:.1f} digits or better'}."
    layer = fault.tensor.removeprefix("the output of ")
    ops = {g.name: g.layer.op for g in geometry(spec).layers}
    op = f" ({ops[layer]})" if layer in ops else ""
    return (
        f"{backend}, {spec.name} in {dtype}, check {fault.check}: {fault.tensor}{op} {fault.fault}.{kept} "
        f"In all, {wrong} of {len(findings)} comparisons fail."
    )
