"""INT8 edges: what is sent, what stays float, and that nothing but the images decides a scale."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from baseline.split import split_network
from export.quantize import CALIBRATION_BATCH, QuantizedEdge, qnnpack_engine, quantize_edge
from records.errors import ExportError, UnsupportedHereError
from records.recipe import ExportRecipe
from tests.export.edges import NETWORKS, batch, network, quantized, split

MIN_MAX = ExportRecipe(activation_observer="min-max")


def run(module: nn.Module, x: Tensor) -> Tensor:
    with qnnpack_engine(), torch.no_grad():
        result: Tensor = module(x)
    return result


def sqnr_db(signal: Tensor, noisy: Tensor) -> float:
    return float(10 * torch.log10(signal.pow(2).sum() / (signal - noisy).pow(2).sum()))


@pytest.mark.parametrize(("name", "cut"), NETWORKS)
def test_the_wire_dequantized_is_the_float_boundary_bit_for_bit(name: str, cut: str) -> None:
    edge = quantized(name, cut)
    sent = run(edge.wire, batch())
    boundary = run(edge.float_boundary, batch())
    assert sent.dtype == torch.uint8
    assert sent.shape == boundary.shape == split(name, cut).edge(batch()).shape
    by_numpy = np.float32(edge.wire_scale) * (
        sent.numpy().astype(np.int32) - edge.wire_zero_point
    ).astype(np.float32)
    assert by_numpy.dtype == np.float32
    assert np.array_equal(by_numpy, boundary.numpy())
    assert len(np.unique(sent.numpy())) > 20  # not a constant: the comparison says something


@pytest.mark.parametrize(("name", "cut"), NETWORKS)
def test_only_the_chunks_of_shufflenet_stay_float(name: str, cut: str) -> None:
    left = quantized(name, cut).float_nodes
    assert left == (() if name != "shufflenet_v2_x1_0" else left)
    assert all(node.startswith("chunk") for node in left)


# Deep random networks amplify the first layers' rounding; the oracle below judges each layer alone.
@pytest.mark.parametrize(
    ("name", "cut"),
    [c for c in NETWORKS if c[1] not in {"features.8", "features.12", "avgpool", "classifier.2"}],
)
def test_int8_stays_near_fp32_on_the_calibration_images(name: str, cut: str) -> None:
    with torch.no_grad():
        expected = split(name, cut).edge(batch())
    assert sqnr_db(expected, run(quantized(name, cut).float_boundary, batch())) > 12


def in_float64(module: Any, x: Tensor) -> Tensor:
    """Do in float64 what a quantized layer does with integers."""
    if not hasattr(module, "_weight_bias"):
        layer: nn.Module = nn.Hardswish() if hasattr(module, "zero_point") else module
        result: Tensor = copy.deepcopy(layer).double()(x.clone())
        return result
    weight, bias = module._weight_bias()
    weight = weight.dequantize().double()
    bias = None if bias is None else bias.detach().double()
    if weight.dim() == 2:
        y = nn.functional.linear(x, weight, bias)
    else:
        window = (module.stride, module.padding, module.dilation, module.groups)
        y = nn.functional.conv2d(x, weight, bias, *window)
    return y.relu() if type(module).__name__.endswith("ReLU2d") else y


_Q = torch.ops.quantized
FLOAT64: dict[Any, Callable[..., Tensor]] = {
    _Q.add: lambda a, b, scale, zero_point: a + b,
    _Q.add_relu: lambda a, b, scale, zero_point: (a + b).relu(),
    _Q.mul: lambda a, b, scale, zero_point: a * b,
}


class Oracle(fx.Interpreter):
    """Repeats each integer operator in float64 on its own dequantized inputs."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.worst: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        inputs = [self.env.get(source) for source in n.all_input_nodes]
        integer = any(isinstance(v, Tensor) and v.is_quantized for v in inputs)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        real = fx.node.map_aggregate((args, kwargs), _real)
        value = super().run_node(n)
        if integer and isinstance(value, Tensor) and value.is_quantized:
            expected = self._expected(n, *real)
            steps = torch.round(expected / value.q_scale()) + value.q_zero_point()
            stored = value.int_repr().double()
            self.worst[n.name] = float((stored - steps.clamp(0, 255)).abs().max())
        return value

    def _expected(self, node: fx.Node, args: Any, kwargs: Any) -> Tensor:
        if node.op == "call_module":
            return in_float64(self.module.get_submodule(str(node.target)), args[0])
        if node.op == "call_method":
            result: Tensor = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            return result
        known: Any = node.target
        target: Callable[..., Tensor] = FLOAT64.get(known, known)
        return target(*args, **kwargs)


def _real(value: Any) -> Any:
    quantized_tensor = isinstance(value, Tensor) and value.is_quantized
    return value.dequantize().contiguous().double() if quantized_tensor else value


@pytest.mark.parametrize(("name", "cut"), NETWORKS)
def test_every_integer_operator_is_within_one_step_of_float64(name: str, cut: str) -> None:
    oracle = Oracle(quantized(name, cut).float_boundary)
    with qnnpack_engine(), torch.no_grad():
        oracle.run(batch()[:8])
    assert len(oracle.worst) >= 2 or cut == "features.0"
    assert {name: steps for name, steps in oracle.worst.items() if steps > 1} == {}


def test_the_clamp_that_qnnpack_gets_wrong_is_still_wrong() -> None:
    # When this fails, torch has been mended and _clamp_contiguous_tensors_only can go.
    real = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0)) * 4
    last = real.contiguous(memory_format=torch.channels_last)
    with qnnpack_engine():
        stored = torch.quantize_per_tensor(last, 0.1, 128, torch.quint8)
        clamped = nn.functional.relu6(stored).dequantize()
    assert not torch.allclose(clamped, stored.dequantize().clamp(0, 6), atol=0.1)


class Clamps(nn.Module):
    """Every way to clamp that FX keeps in integers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Conv2d(4, 4, 3)
        self.act = nn.Hardtanh(-0.5, 0.75)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.relu6(self.first(x))
        y = torch.clamp(self.second(y), -0.6, 0.8)
        y = self.act(y).clamp(-0.3, 0.5)
        return torch.flatten(y, 1)


def test_every_kind_of_clamp_is_computed_right() -> None:
    torch.manual_seed(0)
    halves = split_network(nn.Sequential(Clamps(), nn.Linear(4 * 28 * 28, 2)), "0")
    edge = quantize_edge(halves.edge, [batch()], MIN_MAX)
    assert edge.float_nodes == ()
    oracle = Oracle(edge.float_boundary)
    with qnnpack_engine(), torch.no_grad():
        oracle.run(batch())
    assert max(oracle.worst.values()) <= 1
    assert sum(n.target == "contiguous" for n in edge.float_boundary.graph.nodes) == 4


@pytest.mark.parametrize("activations", ["min-max", "histogram"])
@pytest.mark.parametrize("weights", ["per-channel", "per-tensor"])
def test_every_observer_gives_the_same_edge_twice(weights: str, activations: str) -> None:
    recipe = ExportRecipe(weight_observer=weights, activation_observer=activations)  # type: ignore[arg-type]
    first, second = (
        quantize_edge(split("tiny", "block3").edge, [batch()], recipe) for _ in range(2)
    )
    assert first.qparams == second.qparams
    assert torch.equal(run(first.wire, batch()), run(second.wire, batch()))
    layers: list[Any] = [m for m in first.float_boundary.modules() if hasattr(m, "_weight_bias")]
    schemes = {layer._weight_bias()[0].qscheme() for layer in layers}
    per_channel = weights == "per-channel"
    assert schemes == {torch.per_channel_affine if per_channel else torch.per_tensor_affine}


@pytest.mark.parametrize("activations", ["min-max", "histogram"])
def test_batches_of_the_calibration_set_do_not_matter(activations: str) -> None:
    recipe = ExportRecipe(activation_observer=activations)  # type: ignore[arg-type]
    images = torch.cat([batch(), batch().flip(3), batch().flip(2), -batch()])
    assert len(images) > CALIBRATION_BATCH
    whole = quantize_edge(split("tiny", "block3").edge, [images], recipe)
    fives = [images[start : start + 5] for start in range(0, len(images), 5)]
    parts = quantize_edge(split("tiny", "block3").edge, fives, recipe)
    assert whole.qparams == parts.qparams


def test_min_max_scales_by_hand() -> None:
    edge = quantized("tiny", "block1")
    by_name = {q.tensor: q for q in edge.qparams}
    low, high = float(batch().min()), float(batch().max())
    scale = np.float32((high - low) / 255)
    assert by_name["quantize_per_tensor"].scale == pytest.approx(scale, rel=1e-6)
    assert by_name["quantize_per_tensor"].zero_point == round(-low / scale)
    # The last tensor of the list is the one that is sent.
    assert edge.qparams[-1].scale == edge.wire_scale
    assert edge.qparams[-1].zero_point == edge.wire_zero_point


def test_qparams_are_those_of_the_tensors_as_they_run() -> None:
    edge = quantized("mobilenet_v3_small", "features.3")
    seen: dict[str, tuple[float, int]] = {}

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if isinstance(value, Tensor) and value.is_quantized:
                seen[n.name] = (value.q_scale(), value.q_zero_point())
            return value

    with qnnpack_engine(), torch.no_grad():
        Watch(edge.float_boundary).run(batch()[3:9])
    assert {q.tensor: (q.scale, q.zero_point) for q in edge.qparams} == seen


class FloatEnd(nn.Module):
    """The cut comes after an operator that has no quantized kernel in FX's tables."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.odd = nn.Softplus()
        self.end = nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.end(self.odd(self.layer(x)))
        return result


@pytest.mark.parametrize("activations", ["min-max", "histogram"])
def test_a_boundary_that_would_be_float_is_quantized_and_reported(activations: str) -> None:
    torch.manual_seed(0)
    halves = split_network(FloatEnd(), "odd")
    recipe = ExportRecipe(activation_observer=activations)  # type: ignore[arg-type]
    edge = quantize_edge(halves.edge, [batch()], recipe)
    assert edge.float_nodes == ("odd",)
    sent = run(edge.wire, batch())
    boundary = run(edge.float_boundary, batch())
    assert sent.dtype == torch.uint8
    assert torch.equal(edge.wire_scale * (sent.float() - edge.wire_zero_point), boundary)
    assert sqnr_db(halves.edge(batch()), boundary) > 20


def test_quantizing_leaves_the_edge_as_it_was() -> None:
    edge = split("tiny", "block2.act").edge
    before = {key: value.clone() for key, value in edge.state_dict().items()}
    code = edge.code
    quantize_edge(edge, [batch()], MIN_MAX)
    assert edge.code == code
    assert all(torch.equal(value, before[key]) for key, value in edge.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float) -> None:
    edge = copy.deepcopy(split("tiny", "block1").edge)
    edge.get_parameter("block1.pointwise.weight").data[0, 0] = value
    with pytest.raises(ExportError, match=r"block1\.pointwise\.weight"):
        quantize_edge(edge, [batch()], MIN_MAX)


@pytest.mark.parametrize("batches", [[], [torch.zeros(0, 3, 32, 32)]])
def test_no_calibration_images_are_refused(batches: list[Tensor]) -> None:
    with pytest.raises(ExportError, match="no calibration images"):
        quantize_edge(split("tiny", "block1").edge, batches, MIN_MAX)


def test_calibration_images_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ExportError, match="calibration images hold NaN"):
        quantize_edge(split("tiny", "block1").edge, [batch() * float("inf")], MIN_MAX)


@pytest.mark.parametrize("shape", [(4, 5, 32, 32), (3, 32, 32), (4, 3, 16, 16)])
def test_calibration_images_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ExportError, match="calibration images has shape"):
        quantize_edge(split("tiny", "block1").edge, [batch(), torch.zeros(shape)], MIN_MAX)


def test_calibration_images_with_other_channels_are_refused() -> None:
    with pytest.raises(ExportError, match=r"cannot quantize this edge: .*5 channels"):
        quantize_edge(split("tiny", "block1").edge, [torch.zeros(4, 5, 32, 32)], MIN_MAX)


class _Refused(nn.Module):
    """A convolution that FX does not convert, or an operator after it without an INT8 kernel."""

    def __init__(self, padding: Literal["circular", "zeros"], mode: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode=padding)
        self.mode = mode

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.interpolate(self.conv(images), scale_factor=2.0, mode=self.mode)


@pytest.mark.parametrize(
    ("padding", "mode", "said"),
    [("circular", "nearest", "circular is not supported"), ("zeros", "bicubic", "bicubic2d")],
)
def test_what_torch_cannot_quantize_is_said_in_a_line(
    padding: Literal["circular", "zeros"], mode: str, said: str
) -> None:
    edge = fx.symbolic_trace(_Refused(padding, mode).eval())
    with pytest.raises(ExportError, match=f"torch cannot quantize this edge: .*{said}") as caught:
        quantize_edge(edge, [batch()], MIN_MAX)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_mistake_of_ours_is_not_laid_on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: object, **__: object) -> None:
        raise ValueError("ours")

    monkeypatch.setattr("export.quantize.place_observers", mistaken)
    with pytest.raises(ValueError, match="ours"):
        quantize_edge(split("tiny", "block1").edge, [batch()], MIN_MAX)


def test_a_dead_channel_does_not_break_per_channel_weights() -> None:
    model = copy.deepcopy(network("tiny"))
    with torch.no_grad():
        model.get_parameter("block1.pointwise.weight")[3] = 0
        model.get_parameter("block1.norm2.weight")[2] = 0
    halves = split_network(model, "block1")
    edge = quantize_edge(halves.edge, [batch()], MIN_MAX)
    assert sqnr_db(halves.edge(batch()), run(edge.float_boundary, batch())) > 20


def test_the_engine_is_restored() -> None:
    before = torch.backends.quantized.engine
    with contextlib.suppress(ZeroDivisionError), qnnpack_engine():
        assert torch.backends.quantized.engine == "qnnpack"
        _ = 1 / 0
    assert torch.backends.quantized.engine == before


def test_a_torch_without_qnnpack_is_said_to_be_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.quantize.ENGINE", "no-such-engine")
    with pytest.raises(UnsupportedHereError), qnnpack_engine():
        pass


def test_wire_is_one_graph_with_the_float_boundary() -> None:
    edge: QuantizedEdge = quantized("tiny", "block3")
    ends = [
        [n.target for n in module.graph.nodes if n.op.startswith("call_")]
        for module in (edge.float_boundary, edge.wire)
    ]
    assert ends[0][:-1] == ends[1][:-1]
    assert (ends[0][-1], ends[1][-1]) == ("dequantize", "int_repr")
