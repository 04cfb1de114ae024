"""The language of a specification: what may be said, with which values. Meaning is in ``README.md`` beside this file.

Every class is frozen and refuses unknown fields. A number is never read from text and a truth value is never a number.
Cross-field rules that one class can see are checked here; what needs shapes is checked in ``arithmetic.py``.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

Positive = Annotated[int, Field(gt=0, le=2**31 - 1)]
NonNegative = Annotated[int, Field(ge=0, le=2**31 - 1)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Probability = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
"""A layer's name. Lower case, so that it can be a Python attribute, a Keras layer and an ONNX node everywhere."""


def tag(name: str) -> int:
    """A name as 32 bits, as the draws use it: CRC-32 of its UTF-8 bytes."""
    return zlib.crc32(name.encode())


class FieldFault(ValueError):
    """A rule between fields is broken, and `field` is where to look."""

    def __init__(self, field: str, required: str, received: object) -> None:
        self.field, self.received = field, received
        super().__init__(required)


class Statement(BaseModel):
    """Base of everything in a specification: frozen, strict, closed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


# --- sizes ------------------------------------------------------------------------------------------------------------


class Size(Statement):
    """Rows and columns. A whole number n means n rows and n columns."""

    height: Positive
    width: Positive


class Padding(Statement):
    """Rows and columns added on each side. A whole number n means n on all four."""

    top: NonNegative
    bottom: NonNegative
    left: NonNegative
    right: NonNegative


def _square(value: object) -> object:
    return {"height": value, "width": value} if isinstance(value, int) and not isinstance(value, bool) else value


def _all_sides(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return dict.fromkeys(("top", "bottom", "left", "right"), value)
    return value


SHORTHANDS = {
    "kernel": ("height", "width"),
    "stride": ("height", "width"),
    "padding": ("top", "bottom", "left", "right"),
}
"""Fields that take one whole number for all of these."""
SizeField = Annotated[Size, BeforeValidator(_square, json_schema_input_type=Positive | Size)]
PaddingField = Annotated[Padding, BeforeValidator(_all_sides, json_schema_input_type=NonNegative | Padding)]
Rounding = Literal["floor", "ceil"]
_ONE = Size(height=1, width=1)
_NONE = Padding(top=0, bottom=0, left=0, right=0)


class Input(Statement):
    """The network's input: an image of `channels` maps of `height` x `width`."""

    channels: Positive
    height: Positive
    width: Positive


# --- layers -----------------------------------------------------------------------------------------------------------


class LayerBase(Statement):
    """A named step of the network. Layers form one chain, in the order in which they are written."""

    name: Name


class Windowed(LayerBase):
    """A layer that slides a window over the map; `rounding` says what becomes of a last window that does not fit."""

    kernel: SizeField
    stride: SizeField
    padding: PaddingField = _NONE
    rounding: Rounding = "floor"


class Conv(Windowed):
    """Convolution (cross-correlation), weights (out_channels, in_channels/groups, kh, kw); a group sees its slice."""

    op: Literal["conv"]
    out_channels: Positive
    stride: SizeField = _ONE
    groups: Positive = 1
    bias: bool = True


class Local(Windowed):
    """Locally connected: a convolution whose weights, and biases, differ from place to place."""

    op: Literal["local"]
    out_channels: Positive
    stride: SizeField = _ONE
    groups: Positive = 1
    bias: bool = True


class MaxPool(Windowed):
    """The largest value of each window; padding counts as minus infinity."""

    op: Literal["max_pool"]


class AvgPool(Windowed):
    """The mean of each window. `divisor: window` divides by the window's area, `inside` by its part inside the map."""

    op: Literal["avg_pool"]
    divisor: Literal["window", "inside"]


class Lrn(LayerBase):
    """Local response normalisation across channels: y = x / (k + a * sum of squares over the window) ** beta."""

    op: Literal["lrn"]
    size: Positive
    before: NonNegative | None = None
    """How many channels before its own the window reaches. Odd sizes: (size - 1) / 2. Even sizes must state it."""
    alpha: PositiveFloat
    alpha_over: Literal["size", "one"]
    """`size`: a = alpha / size, as the 2012 source, Caffe, PyTorch and ONNX; `one`: a = alpha, as the paper's text and
    TensorFlow."""
    beta: PositiveFloat
    k: PositiveFloat
    groups: Positive = 1
    """The window does not reach across the borders of this many equal slices of the channels (towers)."""

    @model_validator(mode="after")
    def _window_is_stated(self) -> Lrn:
        if self.before is None and self.size % 2 == 0:
            required = "must be odd, or `before` stated (for even sizes PyTorch: size // 2, ONNX: (size - 1) // 2)"
            raise FieldFault("size", required, self.size)
        if self.before is not None and self.before >= self.size:
            raise FieldFault("before", f"must be less than the size ({self.size})", self.before)
        return self

    @property
    def window(self) -> tuple[int, int]:
        """Channels (before, after) its own in the window; before + 1 + after == size."""
        before = (self.size - 1) // 2 if self.before is None else self.before
        return before, self.size - 1 - before

    @property
    def coefficient(self) -> float:
        """What the sum of squares is multiplied by."""
        return self.alpha / self.size if self.alpha_over == "size" else self.alpha


class SpatialNorm(LayerBase):
    """Response normalisation within a map: as lrn, the sum over a `size` x `size` window clipped at the border."""

    op: Literal["spatial_norm"]
    size: Positive
    alpha: PositiveFloat
    alpha_over: Literal["area", "one"]
    beta: PositiveFloat
    k: PositiveFloat

    @model_validator(mode="after")
    def _size_is_odd(self) -> SpatialNorm:
        if self.size % 2 == 0:
            raise FieldFault("size", "must be odd, the window being centred", self.size)
        return self

    @property
    def coefficient(self) -> float:
        """What the sum of squares is multiplied by."""
        return self.alpha / self.size**2 if self.alpha_over == "area" else self.alpha


class Relu(LayerBase):
    """max(x, 0)."""

    op: Literal["relu"]


class Tanh(LayerBase):
    """amplitude * tanh(slope * x)."""

    op: Literal["tanh"]
    amplitude: PositiveFloat = 1.0
    slope: PositiveFloat = 1.0


class Dropout(LayerBase):
    """Each unit is zeroed in training with probability `rate`.

    `scale: train` multiplies the survivors by 1 / (1 - rate) in training (inverted dropout); `scale: test` multiplies
    all units by 1 - rate in evaluation instead, as the paper and the 2012 source do.
    """

    op: Literal["dropout"]
    rate: Annotated[float, Field(ge=0, lt=1)]
    scale: Literal["train", "test"]


class Flatten(LayerBase):
    """Maps to a vector, channel by channel and row by row (C, H, W order)."""

    op: Literal["flatten"]


class Dense(LayerBase):
    """Fully connected, weights (out_features, in_features / groups); group g maps its slice of inputs to its slice of
    outputs."""

    op: Literal["dense"]
    out_features: Positive
    groups: Positive = 1
    bias: bool = True


Layer = Annotated[
    Conv | Local | MaxPool | AvgPool | Lrn | SpatialNorm | Relu | Tanh | Dropout | Flatten | Dense,
    Field(discriminator="op"),
]


# --- initialisation ---------------------------------------------------------------------------------------------------


class Constant(Statement):
    """Every element is `value`."""

    kind: Literal["constant"]
    value: float


class Normal(Statement):
    """Normal with mean 0 and standard deviation `std`."""

    kind: Literal["normal"]
    std: PositiveFloat


class TruncatedNormal(Statement):
    """Normal with mean 0 and standard deviation `std` before values beyond two of them are cut away (renormalised)."""

    kind: Literal["truncated_normal"]
    std: PositiveFloat


class Uniform(Statement):
    """Uniform between `low` and `high`."""

    kind: Literal["uniform"]
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        if not self.low < self.high:
            raise FieldFault("low", f"must be less than high ({self.high})", self.low)
        return self


class VarianceScaling(Statement):
    """Variance `scale` / fan, the fan being that of the layer's weight (also for its bias).

    Glorot is scale 1 over fan_avg, He scale 2 over fan_in; PyTorch's default for weights and biases is a uniform of
    scale 1/3 over fan_in.
    """

    kind: Literal["variance_scaling"]
    scale: PositiveFloat
    fan: Literal["fan_in", "fan_out", "fan_avg"]
    distribution: Literal["normal", "uniform"]


Distribution = Annotated[Constant | Normal | TruncatedNormal | Uniform | VarianceScaling, Field(discriminator="kind")]


class Init(Statement):
    """Initial values: of every weight, of every bias, and of single parameters by name (``conv2.bias``)."""

    weight: Distribution
    bias: Distribution
    parameters: dict[str, Distribution] = {}

    def of(self, parameter: str) -> Distribution:
        """The distribution that `parameter` (canonical name) is drawn from."""
        stated = self.parameters.get(parameter)
        if stated is not None:
            return stated
        return self.weight if parameter.endswith(".weight") else self.bias


# --- training ---------------------------------------------------------------------------------------------------------


class ConstantRate(Statement):
    """The same learning rate from the first step to the last."""

    kind: Literal["constant"]
    rate: Rate


class Stage(Statement):
    """From the start of epoch `epoch` (the first is 0) the learning rate is `rate`; 0 freezes the parameter."""

    epoch: NonNegative
    rate: Rate


class StagedRate(Statement):
    """The learning rate changes at stated epochs."""

    kind: Literal["stages"]
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _epochs_ascend(self) -> StagedRate:
        epochs = [stage.epoch for stage in self.stages]
        if epochs[0] != 0 or any(a >= b for a, b in pairwise(epochs)):
            raise FieldFault("stages", "epochs must begin with 0 and ascend", epochs)
        return self


class StepRate(Statement):
    """rate * factor ** floor(t / every), t counted in epochs or in optimizer steps."""

    kind: Literal["step"]
    rate: Rate
    factor: PositiveFloat
    every: Positive
    unit: Literal["epoch", "step"]


class ExponentialStepsRate(Statement):
    """cuda-convnet2's ``dexp``: from `rate` down to rate / target_factor in `steps` equal parts of the run."""

    kind: Literal["exponential_steps"]
    rate: Rate
    target_factor: PositiveFloat
    steps: Annotated[int, Field(ge=2)]


class PlateauRate(Statement):
    """Multiplied by `factor` after `patience` epochs in a row without a validation top-1 error at least `threshold`
    better than the best so far, at most `drops` times."""

    kind: Literal["plateau"]
    rate: Rate
    factor: Annotated[float, Field(gt=0, lt=1)]
    patience: Positive
    threshold: Rate
    drops: Positive


Schedule = Annotated[
    ConstantRate | StagedRate | StepRate | ExponentialStepsRate | PlateauRate, Field(discriminator="kind")
]


class Optimizer(Statement):
    """Stochastic gradient descent with momentum; see the formulas in ``README.md``."""

    kind: Literal["sgd"]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    learning_rate_in_velocity: bool
    """True: v = mu v - lr g, w += v (the paper). False: v = mu v + g, w -= lr v (PyTorch). Alike while lr is."""
    decay: Literal["coupled", "decoupled"]
    """Coupled: decay is part of the gradient. Decoupled: w -= lr * decay * w beside it."""


class Training(Statement):
    """The recipe. `learning_rate` and `weight_decay` map patterns over parameter names (``*.bias``) to values; of the
    patterns that match a parameter, the one written last holds."""

    batch_size: Positive
    epochs: Positive
    loss: Literal["softmax_cross_entropy"]
    optimizer: Optimizer
    learning_rate: dict[str, Schedule] = Field(min_length=1, max_length=100)
    weight_decay: dict[str, Rate] = Field(min_length=1, max_length=100)


# --- data -------------------------------------------------------------------------------------------------------------


class Storage(Statement):
    """What is kept of each photograph: `size` x `size` bytes per channel."""

    size: Positive
    fit: Literal["short_side", "stretch"]
    """`short_side`: short side to `size`, then the central square. `stretch`: both sides to `size`."""


class Mean(Statement):
    """What is subtracted, in the units of the scaled pixel.

    `image`: the mean training image. `channel`: its mean per channel. `values`: the stated values, one per channel.
    `none`: nothing.
    """

    kind: Literal["image", "channel", "values", "none"]
    align: Literal["center", "crop"] = "center"
    """Where a mean image is cut: its centre whatever the crop (2012 source), or at the crop's place (Caffe)."""
    values: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _values_belong_to_their_kind(self) -> Mean:
        if (self.kind == "values") != (self.values is not None):
            raise FieldFault("values", "must be stated for kind values, and only for it", self.values)
        return self


class Crop(Statement):
    """Training crops: a place drawn uniformly from all (random), or the centre."""

    kind: Literal["random", "center"]
    shared_by: Positive = 1
    """This many consecutive stored images share a draw (2012 source: 32)."""


class Flip(Statement):
    """Reflection left to right with `probability`, drawn for `shared_by` consecutive stored images at once."""

    probability: Probability
    shared_by: Positive = 1


class ColorNoise(Statement):
    """Along the principal components of the training pixels' colours, per image and presentation.

    x += V (s * z), z normal with standard deviation `sigma`, s the components' standard deviations (2012 source) or
    eigenvalues on [0, 1] pixels (the paper's words); then x /= divide_by. Off from epoch `until_epoch` on.
    """

    sigma: PositiveFloat
    scale: Literal["stddev", "eigenvalue"]
    divide_by: PositiveFloat = 1.0
    until_epoch: Positive | None = None


class Data(Statement):
    """From photograph to network input: x = (scale * pixel - mean + noise) / (divide_by * std)."""

    storage: Storage
    channel_order: Literal["rgb", "bgr"]
    scale: PositiveFloat
    """Bytes 0..255 are multiplied by this: 1 keeps them, 1/255 gives [0, 1]."""
    mean: Mean
    std: tuple[PositiveFloat, ...] | None = None
    crop: Crop
    flip: Flip
    color_noise: ColorNoise | None = None


class Evaluation(Statement):
    """The protocol of the reported numbers."""

    crops: Literal["center", "ten"]
    average: Literal["probabilities", "logits"]


# --- the whole --------------------------------------------------------------------------------------------------------


class Result(Statement):
    """A published or recorded result: errors as fractions, and where they were printed."""

    dataset: str
    protocol: str
    top1_error: Probability | None = None
    top5_error: Probability | None = None
    loss: float | None = None
    source: str


class Expect(Statement):
    """What must come out, checked whenever the specification is loaded."""

    parameters: Count | None = None
    macs: Count | None = None
    shapes: dict[str, tuple[Positive, ...]] = {}
    results: tuple[Result, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """Who states a value: a specification's name, its file and line, and the source that it gives (None: it gives
    none)."""

    name: str
    file: str
    line: int | None
    source: str | None


class Spec(Statement):
    """One network, its initialisation, its training, its data and its evaluation."""

    SECTIONS: ClassVar = ("input", "layers", "init", "training", "data", "evaluation")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
    title: str
    notes: str = ""
    input: Input
    layers: tuple[Layer, ...] = Field(min_length=1, max_length=500)
    init: Init
    training: Training
    data: Data
    evaluation: Evaluation
    expect: Expect = Expect()
    provenance: dict[str, str] = {}
    """Path of a value (``layers.norm1.k``) to its source, of this file and of those it extends, as far as it holds."""
    _origins: dict[str, Origin] = PrivateAttr(default_factory=dict)

    @property
    def origins(self) -> dict[str, Origin]:
        """Who states each value, by its path, in the order of the specification.

        Two kinds of path stand for what is not a value: ``layers.NAME.after`` (the place of a layer) and the path of
        something that an extending file removed.
        """
        return self._origins

    def layer(self, name: str) -> Any:
        """The layer called `name`. Raises KeyError."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"{self.name} has no layer {name!r}; it has {', '.join(x.name for x in self.layers)}")

    def statement(self) -> dict[str, Any]:
        """The specification as plain values, in the shape of its file (layers by name), every default written out."""
        values = self.model_dump(mode="json")
        values["layers"] = {layer.pop("name"): layer for layer in values["layers"]}
        return values

    @property
    def hash(self) -> str:
        """SHA-256 over what the specification means (not over its name, title, notes, provenance or expectations)."""
        values = self.statement()
        meaning = [
            values[section] if section != "layers" else list(values[section].items()) for section in self.SECTIONS
        ]
        return hashlib.sha256(json.dumps(meaning, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


FIELDS = frozenset(
    name
    for kind in vars().copy().values()
    if isinstance(kind, type) and issubclass(kind, Statement)
    for name in kind.model_fields
)
"""The names of all fields of all statements."""
