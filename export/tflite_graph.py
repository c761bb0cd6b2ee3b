"""The bytes of a ``.tflite`` file: tensors, buffers and operators, by LiteRT's own schema.

The only module that imports ``ai_edge_litert`` to write; the schema is that of its wheel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from export.layers import Grid

IDENTIFIER = b"TFL3"
VERSION = 3
#: XNNPACK loads weights by vectors; the schema asks for this alignment of every buffer.
ALIGNMENT = 16
DESCRIPTION = "edgeveil"

_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int32": schema.TensorType.INT32,
    "uint8": schema.TensorType.UINT8,
    "int8": schema.TensorType.INT8,
}
#: Versions in which the operators took int8; with float32 all of ours are version 1.
_INT8_VERSIONS = {
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 4,
    "RESHAPE": 1,
    "QUANTIZE": 1,
}
#: int8 holds q − 128 of a uint8 grid.
INT8_OFFSET = 128


@dataclass(frozen=True)
class TensorRef:
    """A tensor of the graph: its index, shape with the batch axis as −1, and grid if int8."""

    index: int
    shape: tuple[int, ...]
    grid: Grid | None


class TfliteGraph:
    """Collects tensors and operators in order, and serializes them."""

    def __init__(self) -> None:
        """Start with the empty buffer that activations share."""
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]
        self._operators: list[Any] = []
        self._codes: dict[tuple[str, int], int] = {}

    def activation(
        self, name: str, shape: Sequence[int], grid: Grid | None, *, dtype: str | None = None
    ) -> TensorRef:
        """Add a tensor that is computed.

        Args:
            name: as it stands in the file.
            shape: without the batch axis, in the order of the file.
            grid: its steps; stored as int8 with the zero point less 128.
            dtype: ``uint8`` stores the grid's own integers; None takes int8 or float32.
        """
        kind = dtype or ("float32" if grid is None else "int8")
        tensor = schema.TensorT(
            shape=np.asarray((1, *shape), np.int32),
            shapeSignature=np.asarray((-1, *shape), np.int32),
            type=_TYPES[kind],
            name=name.encode(),
            quantization=None if grid is None else _activation_steps(grid, kind),
        )
        return self._add(tensor, (-1, *shape), grid)

    def constant(
        self,
        name: str,
        array: npt.NDArray[Any],
        *,
        scales: npt.NDArray[np.floating[Any]] | None = None,
        zero_point: int = 0,
        axis: int = 0,
    ) -> TensorRef:
        """Add a stored tensor of any shape, with one scale or one along ``axis``."""
        steps = None
        if scales is not None:
            steps = schema.QuantizationParametersT(
                scale=np.asarray(scales, np.float32).reshape(-1),
                zeroPoint=np.full(np.size(scales), zero_point, np.int64),
                quantizedDimension=axis,
            )
        data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        self._buffers.append(schema.BufferT(data=data))
        tensor = schema.TensorT(
            shape=np.asarray(array.shape, np.int32),
            type=_TYPES[str(array.dtype)],
            buffer=len(self._buffers) - 1,
            name=name.encode(),
            quantization=steps,
        )
        return self._add(tensor, tuple(array.shape), None)

    def operate(
        self, kind: str, inputs: Sequence[TensorRef], output: TensorRef, options: Any = None
    ) -> TensorRef:
        """Add an operator that makes ``output``.

        Args:
            kind: a name of ``BuiltinOperator``.
            inputs: its inputs in the operator's order.
            output: an activation.
            options: the operator's options object, None for one without.
        """
        quantized = output.grid is not None or inputs[0].grid is not None
        version = _INT8_VERSIONS.get(kind, 2) if quantized else 1
        key = (kind, version)
        operator = schema.OperatorT(
            opcodeIndex=self._codes.setdefault(key, len(self._codes)),
            inputs=np.asarray([ref.index for ref in inputs], np.int32),
            outputs=np.asarray([output.index], np.int32),
        )
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            operator.builtinOptions = options
        self._operators.append(operator)
        return output

    def serialize(self, image: TensorRef, boundary: TensorRef) -> bytes:
        """Return the file; the same graph gives the same bytes."""
        model = schema.ModelT(
            version=VERSION,
            description=DESCRIPTION.encode(),
            operatorCodes=[_operator_code(kind, version) for kind, version in self._codes],
            subgraphs=[
                schema.SubGraphT(
                    name=b"main",
                    tensors=self._tensors,
                    inputs=np.asarray([image.index], np.int32),
                    outputs=np.asarray([boundary.index], np.int32),
                    operators=self._operators,
                )
            ],
            buffers=[_AlignedBuffer(buffer) for buffer in self._buffers],
        )
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def _add(self, tensor: Any, shape: tuple[int, ...], grid: Grid | None) -> TensorRef:
        self._tensors.append(tensor)
        return TensorRef(len(self._tensors) - 1, shape, grid)


class _AlignedBuffer:
    """Packs a buffer as the schema's ``force_align: 16``, which the generated Python leaves out."""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer

    def Pack(self, builder: Any) -> int:  # noqa: N802 - the generated code calls it so
        data = self._buffer.data
        position = None
        if data is not None:
            builder.StartVector(1, len(data), ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.Head() : builder.Head() + len(data)] = data.tobytes()
            position = builder.EndVector()
        schema.BufferStart(builder)
        if position is not None:
            schema.BufferAddData(builder, position)
        return int(schema.BufferEnd(builder))


def _activation_steps(grid: Grid, kind: str) -> Any:
    offset = INT8_OFFSET if kind == "int8" else 0
    return schema.QuantizationParametersT(
        scale=np.asarray([grid.scale], np.float32),
        zeroPoint=np.asarray([grid.zero_point - offset], np.int64),
    )


def _operator_code(kind: str, version: int) -> Any:
    code = getattr(schema.BuiltinOperator, kind)
    return schema.OperatorCodeT(
        # Readers before 2020 look at the older, one-byte field.
        deprecatedBuiltinCode=min(code, 127),
        builtinCode=code,
        version=version,
    )
