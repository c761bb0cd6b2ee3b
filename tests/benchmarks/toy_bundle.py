"""A bundle of ONNX artifacts made by onnx.helper: what a machine without torch can run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save_model

from export.bundle import Bundle, seal
from records.hashing import sha256_array, sha256_file
from records.manifest import (
    Artifact,
    DataRecord,
    Preprocessing,
    SetRecord,
    TensorSpec,
    WireTensor,
)
from records.recipe import DataRecipe, ModelRecipe, Recipe

if TYPE_CHECKING:
    import numpy.typing as npt

CHANNELS = 8
SIDE = 16
SCALE = np.float32(0.05)
WEIGHT_SCALE = np.float32(0.01)
_EDGES = (
    ("edge_fp32_onnx", "fp32", "float"),
    ("edge_int8_onnx", "int8", "float"),
    ("edge_int8_wire_onnx", "int8", "wire"),
)


def toy_bundle(
    folder: Path,
    *,
    side: int = SIDE,
    repeats: dict[str, int] | None = None,
    data: DataRecipe | None = None,
    victims: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]] | None = None,
) -> Bundle:
    """Write three edges and return them as a bundle (unverified: it lacks the other artifacts).

    ``repeats`` makes the artifact of a name compute its convolution so many times, one after the
    other: a known slow artifact.
    """
    folder.mkdir(parents=True, exist_ok=True)
    image = TensorSpec(name="input", shape=(3, side, side), dtype="float32")
    boundary = TensorSpec(name="boundary", shape=(CHANNELS, side, side), dtype="float32")
    artifacts = tuple(
        _artifact(folder, name, precision, kind, image, boundary, (repeats or {}).get(name, 1))
        for name, precision, kind in _EDGES
    )
    recipe = Recipe(data=data or DataRecipe(), model=ModelRecipe(image_size=side))
    manifest = seal(
        split="toy",
        recipe=recipe,
        checkpoint_sha256="0" * 64,
        data=_data_record(recipe, victims, side),
        preprocessing=Preprocessing(
            native_size=side, image_size=side, mean=recipe.model.mean, std=recipe.model.std
        ),
        input=image,
        boundary=boundary,
        output=TensorSpec(name="logits", shape=(4,), dtype="float32"),
        wire=WireTensor(shape=boundary.shape, scale=float(SCALE), zero_point=0),
        artifacts=artifacts,
        qparams=(),
        float_nodes=(),
        engine="qnnpack",
        versions={},
    )
    return Bundle(folder=folder, manifest=manifest)


def _artifact(
    folder: Path,
    name: str,
    precision: Any,
    kind: Any,
    image: TensorSpec,
    boundary: TensorSpec,
    repeats: int,
) -> Artifact:
    path = folder / f"{name}.onnx"
    save_model(_model(precision, kind, image.shape, boundary.shape, repeats), path)
    output = boundary
    if kind == "wire":
        output = TensorSpec(name="boundary", shape=boundary.shape, dtype="uint8")
    return Artifact(
        name=name,
        file=path.name,
        format="onnx",
        role="edge",
        precision=precision,
        boundary=kind,
        sha256=sha256_file(path),
        size=path.stat().st_size,
        weight_bytes=CHANNELS * 27 * (4 if precision == "fp32" else 1),
        input=image,
        output=output,
        opset=17,
    )


def _model(precision: str, kind: str, image: Any, boundary: Any, repeats: int) -> Any:
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.2, (CHANNELS, 3, 3, 3)).astype(np.float32)
    again = rng.normal(0, 0.1, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    initializers = [numpy_helper.from_array(np.array(s), n) for n, s in _SCALES.items()]
    initializers.append(numpy_helper.from_array(np.array(0, np.uint8), "zero"))
    initializers.append(numpy_helper.from_array(np.array(0, np.int8), "weight_zero"))
    nodes: list[Any] = []
    tensor = "input"
    for i in range(repeats):
        initializers += _weights(f"w{i}", weight if i == 0 else again, precision)
        tensor = _layer(nodes, tensor, f"w{i}", precision)
    if kind == "wire":
        nodes.append(helper.make_node("QuantizeLinear", [tensor, "scale", "zero"], ["boundary"]))
    else:
        nodes.append(helper.make_node("Identity", [tensor], ["boundary"]))
    element = TensorProto.UINT8 if kind == "wire" else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *image])],
        [helper.make_tensor_value_info("boundary", element, ["N", *boundary])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


_SCALES = {"scale": SCALE, "weight_scale": WEIGHT_SCALE}


def _weights(name: str, weight: npt.NDArray[np.float32], precision: str) -> list[Any]:
    if precision == "fp32":
        return [numpy_helper.from_array(weight, name)]
    steps = np.clip(np.rint(weight / WEIGHT_SCALE), -127, 127).astype(np.int8)
    return [numpy_helper.from_array(steps, f"{name}_q")]


def _layer(nodes: list[Any], tensor: str, weight: str, precision: str) -> str:
    if precision == "int8":
        quantized, real = f"{weight}_in_q", f"{weight}_in"
        nodes += [
            helper.make_node("QuantizeLinear", [tensor, "scale", "zero"], [quantized]),
            helper.make_node("DequantizeLinear", [quantized, "scale", "zero"], [real]),
            helper.make_node(
                "DequantizeLinear", [f"{weight}_q", "weight_scale", "weight_zero"], [weight]
            ),
        ]
        tensor = real
    nodes += [
        helper.make_node("Conv", [tensor, weight], [f"{weight}_conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", [f"{weight}_conv"], [f"{weight}_out"]),
    ]
    return f"{weight}_out"


def _data_record(
    recipe: Recipe,
    victims: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]] | None,
    side: int,
) -> DataRecord:
    other = SetRecord(count=1, sha256="1" * 64)
    victim = other
    if victims is not None:
        victim = SetRecord(count=len(victims[0]), sha256=sha256_array(*victims))
    return DataRecord(
        source=recipe.data.source,
        native_size=side,
        classes=("a", "b", "c", "d"),
        train=other,
        calibration=other,
        attacker=other,
        victim=victim,
        attacker_pool="held-out",
        dropped_duplicates=0,
    )
