"""An edge's ONNX graph as a function that torch can differentiate: weights and scales as shipped.

One interpreter serves FP32 and INT8: in a QDQ graph every QuantizeLinear rounds as the integer
kernels do, and lets gradients through as if it had not (straight-through; Bengio et al. 2013,
"Estimating or propagating gradients through stochastic neurons").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from attack.differentiable_operators import OPERATORS
from records.errors import UnsupportedHereError

_QUANTIZE = "QuantizeLinear"


@dataclass(frozen=True)
class _Step:
    """One node: what it computes, from which names, to which names."""

    compute: Callable[..., Any]
    attributes: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class DifferentiableEdge:
    """An ONNX model with one input and one output, run by torch operators in float32.

    Integers of a QDQ graph are held as whole float32 numbers. What depends on no input, such as
    dequantized weights, is computed once.
    """

    def __init__(self, data: bytes, name: str) -> None:
        """Read a model.

        Args:
            data: a verified ``.onnx`` file whose output is float32.
            name: of the artifact, for errors.

        Raises:
            UnsupportedHereError: the graph has an operator that is not known here.
        """
        graph = onnx.load_model_from_string(data).graph
        self._input = graph.input[0].name
        self._output = graph.output[0].name
        self._constants: dict[str, Tensor] = {
            tensor.name: _as_tensor(tensor) for tensor in graph.initializer
        }
        self._steps: list[_Step] = []
        last = max((k for k, n in enumerate(graph.node) if n.op_type == _QUANTIZE), default=-1)
        for k, node in enumerate(graph.node):
            # A boundary of fewer bits is clipped once more, behind its QuantizeLinear.
            ends = last >= 0 and (k == last or (k > last and node.op_type == "Clip"))
            self._add(node, name, boundary=ends)

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the boundary's real values, float32 (N, *boundary), of float32 (N, 3, S, S)."""
        values = {**self._constants, self._input: batch}
        for step in self._steps:
            values.update(_run(step, values))
        return values[self._output]

    def _add(self, node: onnx.NodeProto, name: str, *, boundary: bool) -> None:
        attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant":
            self._constants[node.output[0]] = _as_tensor(attributes["value"])
            return
        compute = OPERATORS.get(node.op_type)
        if compute is None:
            raise UnsupportedHereError(
                f"the white-box attack cannot differentiate the operator {node.op_type} of {name}; "
                "leave A2 out of the levels"
            )
        if boundary:
            attributes["boundary"] = True
        step = _Step(compute, attributes, tuple(node.input), tuple(node.output))
        if all(not given or given in self._constants for given in step.inputs):
            with torch.no_grad():
                self._constants.update(_run(step, self._constants))
            return
        self._steps.append(step)


def _run(step: _Step, values: dict[str, Tensor]) -> dict[str, Tensor]:
    given = [values[name] if name else None for name in step.inputs]
    found = step.compute(*given, **step.attributes)
    results = found if isinstance(found, tuple) else (found,)
    return dict(zip(step.outputs, results, strict=False))


def _as_tensor(stored: onnx.TensorProto) -> Tensor:
    """Return a stored tensor: shapes and axes stay int64, the int32 biases need float64."""
    array = numpy_helper.to_array(stored)
    tensor = torch.from_numpy(array.copy())
    if tensor.dtype == torch.int64:
        return tensor
    return tensor.double() if tensor.dtype == torch.int32 else tensor.float()
