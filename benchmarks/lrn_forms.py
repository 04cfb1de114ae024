"""Forms of response normalisation: as it is usually written, ours, by a banded matrix, and the node of ONNX Runtime."""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from backends.allocator import keep_freed_memory
from benchmarks.devices import compile_strictly
from benchmarks.ways import Way, measured
from spec import LayerGeometry, Spec, geometry
from spec.language import Lrn

USUAL = "usual"
COMPILED = " compiled"
FORWARD, BOTH = "forward", "forward and backward"
MAPS = {FORWARD: 2, BOTH: 5}
"""Passes over a map that no form can avoid: forward reads x and writes y, backward reads x and its output's cotangent
and writes x's."""
LAYOUTS = ("NCHW", "NHWC")
Form = Callable[[Any], Any]


def places(spec: Spec) -> list[LayerGeometry]:
    """Where `spec` normalises over channels."""
    return [place for place in geometry(spec).layers if isinstance(place.layer, Lrn)]


def forms(place: LayerGeometry, compiled: Sequence[str] = ()) -> Iterator[tuple[str, str, Form]]:
    """Every form's name, what it is, and a function of x (N, C, H, W); the usual one is the first.

    The usual one knows neither towers nor a divisor other than the window's size.
    """
    import torch
    import torch.nn.functional as F

    from backends.torch.normalization import ResponseNorm, inverse_power

    layer, ours = place.layer, ResponseNorm(place)
    assert isinstance(layer, Lrn)

    def usual(x: Any) -> Any:
        return F.local_response_norm(x, layer.size, layer.coefficient * layer.size, layer.beta, layer.k)

    band: dict[Any, Any] = {}

    def banded(x: Any) -> Any:
        if x.device not in band:
            band[x.device] = torch.from_numpy(band_of(layer, place.input_shape[0])).to(x.device)
        wide = x.float()
        d = F.conv2d(wide * wide, band[x.device], groups=layer.groups).add(layer.k)
        return (wide * inverse_power(d, layer.beta)).to(x.dtype)

    made: dict[str, tuple[str, Form]] = {
        USUAL: ("F.local_response_norm", usual),
        "ours": ("shifted sums, closed-form backward", ours),
        "banded": ("sums as a 1x1 convolution by a banded matrix", banded),
    }
    for name, (what, form) in made.items():
        yield name, what, form
    for name in compiled:
        yield name + COMPILED, f"torch.compile of {name}", compile_strictly(made[name][1])


def band_of(layer: Lrn, channels: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(C, C / groups, 1, 1): row i has the layer's coefficient at the channels that its window sees."""
    within, (before, after) = channels // layer.groups, layer.window
    one, other = np.arange(channels)[:, None] % within, np.arange(within)[None, :]
    seen = (other >= one - before) & (other <= one + after)
    return (seen * layer.coefficient).astype(np.float32)[:, :, None, None]


def _torch_way(
    name: str, what: str, form: Form, place: LayerGeometry, batch: int, device: str, layout: str, precision: str,
    passes: str,
) -> Way:  # fmt: skip
    import torch

    dtype = getattr(torch, precision)
    memory = torch.contiguous_format if layout == "NCHW" else torch.channels_last

    def make() -> Callable[[], Any]:
        generator = torch.Generator(device).manual_seed(0)
        x = torch.randn(batch, *place.input_shape, generator=generator, device=device)
        x = x.relu_().mul_(20).to(dtype).to(memory_format=memory)  # as rectified maps are
        if passes == FORWARD:

            def forward() -> Any:
                with torch.no_grad():
                    return form(x)

            return forward
        cotangent = torch.ones_like(x)
        x.requires_grad_()

        def both() -> None:
            x.grad = None
            form(x).backward(cotangent)

        return both

    size = torch.finfo(dtype).bits // 8
    return Way(
        name, what, f"{layout}, {passes}", precision, make, USUAL,
        bytes=MAPS[passes] * size * batch * math.prod(place.input_shape),
    )  # fmt: skip


def _node(place: LayerGeometry, batch: int, device: str, threads: int) -> Way:
    """ONNX's LRN node alone, bound to the device; it has no backward."""

    def make() -> Callable[[], Any]:
        import onnxruntime
        from onnx import TensorProto, helper

        from benchmarks.engines.onnx_runtime import PROVIDERS, session

        layer = place.layer
        assert isinstance(layer, Lrn)
        channels, height, width = place.input_shape
        shape = [batch, channels, height, width]
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
        node = helper.make_node(
            "LRN", ["x"], ["y"], size=layer.size, alpha=layer.coefficient * layer.size, beta=layer.beta, bias=layer.k
        )
        graph = helper.make_graph([node], "lrn", ends[:1], ends[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        made = session(model.SerializeToString(), PROVIDERS[device], threads)
        x = (20 * np.random.default_rng(0).standard_normal(shape, np.float32)).clip(0)
        binding = made.io_binding()
        given = onnxruntime.OrtValue.ortvalue_from_numpy(x, device, 0)
        room = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, device, 0)
        binding.bind_ortvalue_input("x", given)
        binding.bind_ortvalue_output("y", room)

        def run() -> Any:
            made.run_with_iobinding(binding)
            binding.synchronize_outputs()
            return given, room

        return run

    size = 4 * batch * math.prod(place.input_shape)
    return Way("node", "the LRN node in ONNX Runtime", f"NCHW, {FORWARD}", "float32", make, USUAL,
               bytes=MAPS[FORWARD] * size, events=False)  # fmt: skip


def measure(
    spec: Spec, layer: str, *, batch: int, device: str, precisions: list[str], layouts: list[str], compiled: list[str],
    rounds: int, threads: int, until: float | None,
) -> Any:  # fmt: skip
    """(cases, failures) of every form at `layer`, forward in the first layout and with backward in all.

    compiled: which forms are compiled besides. What is compiled comes last, because it takes the longest to begin.
    """
    import importlib.util

    import torch

    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False  # the banded form is a convolution, in float32 as its name says
    keep_freed_memory()
    (place,) = (place for place in places(spec) if place.name == layer)
    ways = [
        _torch_way(name, what, form, place, batch, device, layout, precision, passes)
        for only in (False, True)
        for passes in (BOTH, FORWARD)
        for precision in precisions
        for name, what, form in forms(place, compiled)
        for layout in layouts
        if only == name.endswith(COMPILED) and (passes == BOTH or (layout == layouts[0] and not only))
    ]
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        layer_is: Any = place.layer
        centred = layer_is.window == ((layer_is.size - 1) // 2, layer_is.size // 2)  # the node knows no other window
        if centred and layer_is.groups == 1:
            ways.insert(0, _node(place, batch, device, threads))
    where = f"{spec.name} {layer}, {' x '.join(map(str, (batch, *place.input_shape)))}"
    return measured("lrn", where, batch, device, ways, rounds, until)
