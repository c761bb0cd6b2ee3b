"""Post-training quantization of the edge in FX graph mode, engine qnnpack.

With ``export/boundary_bits.py`` the only module that touches ``torch.ao``: it is deprecated
upstream, without a date.
"""

from __future__ import annotations

import contextlib
import copy
import operator
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.ao.quantization import QConfig, QConfigMapping
from torch.ao.quantization.observer import (
    default_per_channel_weight_observer,
    default_weight_observer,
)
from torch.ao.quantization.qconfig_mapping import (
    get_default_qat_qconfig_mapping,
    get_default_qconfig_mapping,
)
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from export.bias_correction import correct_biases, output_means
from export.bn_reestimation import output_moments, reestimate
from export.boundary_bits import narrow_boundary
from export.equalization import Link, equalize
from export.float_layers import find_float_layers, require_float, take_apart_fused
from export.folding import normalized_layers
from export.importance import weigh_channels
from export.observers import RangeObserver, observers_of, passing, place_observers
from export.qat import TRAINED_WEIGHTS, TrainingImages, prepare_training, train_edge
from export.refine import refine_ranges
from records.errors import ExportError, UnsupportedHereError
from records.manifest import Qparams
from records.progress import Progress, silent
from records.recipe import ExportRecipe

ENGINE = "qnnpack"

#: Images per observed batch, however the caller divides the calibration set: a convolution's last
#: bits may depend on the batch size, and a histogram on the order in which it grows.
CALIBRATION_BATCH = 64

_ACTIVATION = RangeObserver.with_args(dtype=torch.quint8, reduce_range=False)
_WEIGHTS = {
    "per-channel": default_per_channel_weight_observer,
    "per-tensor": default_weight_observer,
}
#: Their quantized kernels take one scale for the whole weight.
_PER_TENSOR_ONLY = (
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.functional.conv_transpose1d,
    nn.functional.conv_transpose2d,
    nn.functional.conv_transpose3d,
)

_CLAMPS = (
    nn.functional.hardtanh,
    nn.functional.hardtanh_,
    nn.functional.relu6,
    torch.clamp,
    torch.ops.quantized.relu6,
    "clamp",
    "clamp_",
)


#: What FX raises for a network that it cannot quantize.
_TORCH_ERRORS = (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError)


@dataclass(frozen=True)
class QuantizedEdge:
    """An edge in INT8, in both forms of its end.

    ``float_boundary``: images (N, 3, S, S) float32 → boundary (N, …) float32, dequantized.
    ``wire``: the same graph, ending at the uint8 tensor (N, …) that is really sent, below
    2^``boundary_bits``;
    ``float32(wire_scale) · (wire − wire_zero_point)`` is ``float_boundary`` bit for bit.
    ``qparams``: of every quantized activation, by node name, in graph order.
    ``float_nodes``: every computing node that stays float; quantize, dequantize and taking a part
    of a tuple do not compute.
    ``equalized``: the layers between which channels were equalized, ``first > reader, reader``.
    """

    float_boundary: fx.GraphModule
    wire: fx.GraphModule
    wire_scale: float
    wire_zero_point: int
    qparams: tuple[Qparams, ...]
    float_nodes: tuple[str, ...]
    equalized: tuple[str, ...] = ()


@contextlib.contextmanager
def qnnpack_engine() -> Iterator[None]:
    """Make qnnpack the engine of quantized operators, and restore the former one afterwards.

    Raises:
        UnsupportedHereError: this build of torch has no qnnpack.
    """
    if ENGINE not in torch.backends.quantized.supported_engines:
        raise UnsupportedHereError(
            f"this build of torch {torch.__version__} has no {ENGINE}; install the PyPI wheel"
        )
    former = torch.backends.quantized.engine
    torch.backends.quantized.engine = ENGINE
    try:
        yield
    finally:
        torch.backends.quantized.engine = former


def quantize_edge(
    edge: fx.GraphModule,
    calibration: Sequence[Tensor],
    recipe: ExportRecipe,
    server: nn.Module | None = None,
    training: TrainingImages | None = None,
    *,
    progress: Progress = silent,
) -> QuantizedEdge:
    """Quantize an edge to INT8 with scales observed on the calibration images.

    The result does not depend on how ``calibration`` is divided into batches.

    Args:
        edge: FP32 edge of ``baseline.split``; it is copied, not changed.
        calibration: preprocessed batches of shape (n, 3, S, S), float32.
        recipe: which observers watch weights and activations.
        server: FP32, boundary → logits (N, K). Without it ``fisher`` observers weigh all channels
            alike and no range is refined.
        training: needed for ``recipe.qat``, as is ``server``.
        progress: called once a refined tensor and once a training step.

    Raises:
        ExportError: no calibration or training images, a batch of another shape, a weight or image
            that is NaN or infinite, or an operator that torch cannot quantize.
        UnsupportedHereError: this build of torch has no qnnpack.
    """
    images = _calibration_images(calibration)
    _refuse_non_finite_weights(edge)
    with qnnpack_engine(), _quiet_torch(), torch.no_grad():
        plain, links = _equalized(copy.deepcopy(edge).eval(), recipe)
        normalized = frozenset(str(node.target) for node in normalized_layers(edge))
        quantizer = _Quantizer(images, normalized, recipe, server, training, progress)
        converted = quantizer.run(plain)
        _clamp_contiguous_tensors_only(converted)
        last = _end_quantized(converted, images, recipe)
        if recipe.boundary_bits < 8:
            last = narrow_boundary(converted, _batches(images), recipe.boundary_bits)
        values = _observe(converted, images[:1])
        wire_tensor = values[last.name]
        float_nodes = _float_nodes(converted, values)
        require_float(converted, recipe.float_layers, float_nodes)
        return QuantizedEdge(
            float_boundary=converted,
            wire=_ending_at_wire(converted),
            wire_scale=wire_tensor.q_scale(),
            wire_zero_point=wire_tensor.q_zero_point(),
            qparams=_qparams(values),
            float_nodes=float_nodes,
            equalized=tuple(str(link) for link in links),
        )


def _equalized(
    edge: fx.GraphModule, recipe: ExportRecipe
) -> tuple[fx.GraphModule, tuple[Link, ...]]:
    return equalize(edge) if recipe.equalization else (edge, ())


def _calibration_images(calibration: Sequence[Tensor]) -> Tensor:
    if not calibration or sum(len(batch) for batch in calibration) == 0:
        raise ExportError("there are no calibration images: scales cannot be observed")
    for batch in calibration:
        if batch.dim() != 4 or batch.shape[1:] != calibration[0].shape[1:]:
            raise ExportError(
                f"a batch of calibration images has shape {tuple(batch.shape)}; expected "
                f"(n, 3, S, S), the same as the first one's {tuple(calibration[0].shape)} but for n"
            )
    images = torch.cat(list(calibration))
    if not bool(torch.isfinite(images).all()):
        raise ExportError("the calibration images hold NaN or infinite values")
    return images


def _refuse_non_finite_weights(edge: nn.Module) -> None:
    for name, tensor in edge.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ExportError(f"tensor {name!r} of the edge holds NaN or infinite values")


def _qconfig_mapping(recipe: ExportRecipe) -> QConfigMapping:
    # The default mapping knows the operators with fixed scales (sigmoid, tanh, softmax …).
    return _choose(get_default_qconfig_mapping(ENGINE), recipe, _WEIGHTS)


def _training_mapping(recipe: ExportRecipe) -> QConfigMapping:
    return _choose(get_default_qat_qconfig_mapping(ENGINE), recipe, TRAINED_WEIGHTS)


def _choose(
    mapping: QConfigMapping, recipe: ExportRecipe, weights: dict[str, Any]
) -> QConfigMapping:
    mapping.set_global(_qconfig(weights[recipe.weight_observer]))
    for kind in _PER_TENSOR_ONLY:
        mapping.set_object_type(kind, _qconfig(weights["per-tensor"]))
    return mapping


def _qconfig(weight: Any) -> QConfig:
    return QConfig(_ACTIVATION, weight)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Quantizer:
    """From a float edge to the converted one; ``normalized``: its layers before a BatchNorm."""

    images: Tensor
    normalized: frozenset[str]
    recipe: ExportRecipe
    server: nn.Module | None
    training: TrainingImages | None
    progress: Progress

    def run(self, edge: fx.GraphModule) -> fx.GraphModule:
        prepared = _calibrated(
            copy.deepcopy(edge), self.images, self.recipe, self.server, self.progress
        )
        return self._trained(edge, prepared) if self.recipe.qat else self._corrected(prepared)

    def _corrected(self, prepared: fx.GraphModule) -> fx.GraphModule:
        """Convert, with the corrections that the recipe asks for."""
        images = self.images
        moments, means = None, None
        with passing(observers_of(prepared).values()):
            if self.recipe.bn_reestimation:
                moments = output_moments(prepared, self.normalized, images)
            if self.recipe.bias_correction:
                means = output_means(prepared, images)
        converted = self._converted(prepared)
        take_apart_fused(converted)
        if moments is not None:
            reestimate(converted, moments, images)
        if means is not None:
            correct_biases(converted, means, images)
        return converted

    def _trained(self, edge: fx.GraphModule, calibrated: fx.GraphModule) -> fx.GraphModule:
        if self.server is None or self.training is None:
            raise ExportError("quantization-aware training needs the server and training images")
        mapping, example = _training_mapping(self.recipe), self.images[:1]
        prepared = prepare_training(edge, calibrated, mapping, example)
        train_edge(prepared, edge, self.server, self.training, self.recipe, progress=self.progress)
        return self._converted(prepared)

    def _converted(self, prepared: fx.GraphModule) -> fx.GraphModule:
        with _torch_refusals():
            converted = convert_fx(prepared)
            converted(self.images[:1])  # an operator without an INT8 kernel is found by running it
        return converted


def calibrated_edge(
    edge: fx.GraphModule,
    calibration: Sequence[Tensor],
    recipe: ExportRecipe,
    server: nn.Module | None = None,
) -> fx.GraphModule:
    """Return FX's prepared graph of an edge with the ranges that ``quantize_edge`` would use.

    It computes in float; its observers know their scales. Arguments as there: batches of shape
    (n, 3, S, S), float32.

    Raises:
        ExportError: as ``quantize_edge``.
    """
    images = _calibration_images(calibration)
    _refuse_non_finite_weights(edge)
    with qnnpack_engine(), _quiet_torch(), torch.no_grad():
        return _calibrated(copy.deepcopy(edge).eval(), images, recipe, server)


def _calibrated(
    edge: fx.GraphModule,
    images: Tensor,
    recipe: ExportRecipe,
    server: nn.Module | None,
    progress: Progress = silent,
) -> fx.GraphModule:
    prepared = _prepared(edge, images, recipe)
    place_observers(prepared, recipe.observer_of, whole_steps=recipe.whole_steps)
    if server is not None and recipe.uses("fisher"):
        weigh_channels(prepared, server, images)
    _calibrate(prepared, images)
    if server is not None and recipe.refined_tensors:
        refine_ranges(prepared, server, images, recipe.refined_tensors, progress=progress)
    return prepared


def _prepared(edge: fx.GraphModule, images: Tensor, recipe: ExportRecipe) -> fx.GraphModule:
    """Return FX's prepared graph, float layers without observers; nothing observed yet."""
    mapping, example = _qconfig_mapping(recipe), (images[:1],)
    if recipe.float_layers:
        with _torch_refusals():
            plain = prepare_fx(copy.deepcopy(edge), mapping, example)
        chosen = find_float_layers(edge, plain, recipe.float_layers)
        for path in chosen.modules:
            mapping.set_module_name(path, None)
        for function, index in chosen.functions:
            mapping.set_module_name_object_type_order("", function, index, None)
    with _torch_refusals():
        prepared = prepare_fx(edge, mapping, example)
    # The graph alone is tried: nothing may be observed before our observers are placed.
    with passing(observers_of(prepared).values()), _torch_refusals():
        prepared(images[:1])
    return prepared


def _calibrate(prepared: fx.GraphModule, images: Tensor) -> None:
    for batch in _batches(images):
        prepared(batch)
    observers = observers_of(prepared).values()
    for observer in observers:
        observer.count_now()
    if any(observer.needs_second_pass for observer in observers):
        for batch in _batches(images):
            prepared(batch)


def _batches(images: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(images), CALIBRATION_BATCH):
        yield images[start : start + CALIBRATION_BATCH]


def _clamp_contiguous_tensors_only(module: fx.GraphModule) -> None:
    """Put ``contiguous`` before every clamp: qnnpack's mixes up the values of a channels-last one.

    Seen in torch 2.14.1 (``qnnpack_clamp``, aten/src/ATen/native/quantized/cpu/qclamp.cpp): each
    value is clamped, but comes back at another place. Quantized convolutions return channels-last
    tensors, so every ReLU6 of MobileNetV2 is affected.
    """
    for node in list(module.graph.nodes):
        if _is_clamp(module, node):
            source = node.all_input_nodes[0]
            with module.graph.inserting_before(node):
                contiguous = module.graph.call_method("contiguous", (source,))
            node.replace_input_with(source, contiguous)
    module.recompile()


def _is_clamp(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), nn.Hardtanh)  # ReLU6 is one
    return node.target in _CLAMPS


def _end_quantized(module: fx.GraphModule, images: Tensor, recipe: ExportRecipe) -> fx.Node:
    """Make the graph end with a dequantize and return the quantized node before it."""
    last = _result(module)
    if _is_dequantize(last):
        return last.all_input_nodes[0]
    # The last operator stays float: the tensor that is sent is quantized all the same.
    observer = RangeObserver(method=recipe.activation_observer, dtype=torch.quint8)
    for batch in _batches(images):
        observer(module(batch))
    scale, zero_point = observer.calculate_qparams()
    output = module.graph.output_node()
    with module.graph.inserting_before(output):
        quantized = module.graph.call_function(
            torch.quantize_per_tensor,
            (last, float(scale), int(zero_point), torch.quint8),
        )
        output.args = (module.graph.call_method("dequantize", (quantized,)),)
    module.recompile()
    return quantized


def _result(module: fx.GraphModule) -> fx.Node:
    """Return the node whose value the graph returns: an edge returns one tensor."""
    return module.graph.output_node().all_input_nodes[0]


def _is_dequantize(node: fx.Node) -> bool:
    return node.op == "call_method" and node.target == "dequantize"


def _ending_at_wire(float_boundary: fx.GraphModule) -> fx.GraphModule:
    """Return a copy whose last dequantize is replaced by the stored integers, uint8."""
    module = copy.deepcopy(float_boundary)
    output = module.graph.output_node()
    dequantize = _result(module)
    with module.graph.inserting_before(output):
        stored = module.graph.call_method("int_repr", (dequantize.all_input_nodes[0],))
    output.args = (stored,)
    if not dequantize.users:
        module.graph.erase_node(dequantize)
    module.graph.lint()
    module.recompile()
    return module


class _Watch(fx.Interpreter):
    """Runs a graph and keeps every node's value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n.name] = super().run_node(n)
        return self.values[n.name]


def _observe(module: fx.GraphModule, images: Tensor) -> dict[str, Any]:
    watch = _Watch(module)
    watch.run(images)
    return watch.values


def _qparams(values: dict[str, Any]) -> tuple[Qparams, ...]:
    return tuple(
        Qparams(tensor=name, scale=value.q_scale(), zero_point=value.q_zero_point())
        for name, value in values.items()
        if isinstance(value, Tensor) and value.is_quantized
    )


def _float_nodes(module: fx.GraphModule, values: dict[str, Any]) -> tuple[str, ...]:
    return tuple(
        node.name
        for node in module.graph.nodes
        if node.op.startswith("call_")
        and node.target is not operator.getitem
        and not _is_dequantize(node)
        and _holds_float_tensor(values[node.name])
    )


def _holds_float_tensor(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_holds_float_tensor(v) for v in value)
    return isinstance(value, Tensor) and value.is_floating_point() and not value.is_quantized


@contextlib.contextmanager
def _torch_refusals() -> Iterator[None]:
    """Say in one sentence what torch refuses; around its calls alone, never around our own."""
    try:
        yield
    except _TORCH_ERRORS as error:
        said = str(error).partition("\n")[0].partition(". ")[0]  # a page of backends may follow
        raise ExportError(f"torch cannot quantize this edge: {said}") from error


@contextlib.contextmanager
def _quiet_torch() -> Iterator[None]:
    # torch.ao says on every call that it is deprecated: known, pinned, and kept in this file.
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield
