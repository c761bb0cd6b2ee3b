"""The operators and versions that a file needs, read from its verified bytes.

No runtime is loaded and nothing is executed: the same strict readers that verify a bundle are used,
so the list can be made on a machine that has none of the runtimes. An app developer needs it for a
runtime that is built with chosen operators only, and to see whether an older runtime will do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from export.bundle import Bundle
from export.flatbuffer import parse as parse_flatbuffer
from export.lite_scan import read_bytecode
from export.onnx_schema import MODEL as ONNX_MODEL
from export.ort_schema import IDENTIFIER as ORT_IDENTIFIER
from export.ort_schema import SESSION as ORT_SESSION
from export.protobuf import parse as parse_protobuf
from export.pte_schema import DELEGATE, KERNEL
from export.pte_schema import IDENTIFIER as PTE_IDENTIFIER
from export.pte_schema import PROGRAM as PTE_PROGRAM
from export.tflite_schema import IDENTIFIER as TFLITE_IDENTIFIER
from export.tflite_schema import MODEL as TFLITE_MODEL
from export.tflite_schema import OPERATORS as TFLITE_OPERATORS
from records.manifest import Artifact, ArtifactFormat
from records.operators import ArtifactOperators, OperatorsRecord, OperatorUse

Versions = dict[str, int]
Found = tuple[Versions, Iterable[str]]
_STANDARD = "ai.onnx"


def operators_of(bundle: Bundle) -> OperatorsRecord:
    """Return versions and operators of every edge artifact.

    Args:
        bundle: a verified bundle.
    """
    edges = [a for a in bundle.manifest.artifacts if a.role == "edge"]
    return OperatorsRecord(
        bundle_id=bundle.manifest.bundle_id,
        artifacts=tuple(_of(bundle.read(artifact), artifact) for artifact in edges),
    )


def _of(data: bytes, artifact: Artifact) -> ArtifactOperators:
    versions, names = _READERS[artifact.format](data)
    return ArtifactOperators(
        artifact=artifact.name,
        file=artifact.file,
        format=artifact.format,
        precision=artifact.precision,
        versions=versions,
        operators=tuple(
            OperatorUse(name=name, uses=uses) for name, uses in sorted(Counter(names).items())
        ),
    )


def _onnx(data: bytes) -> Found:
    model = parse_protobuf(data, ONNX_MODEL)
    nodes = model["graph"].get("node", [])
    return {"IR": int(model["ir_version"]), **_opsets(model, nodes)}, map(_qualified, nodes)


def _ort(data: bytes) -> Found:
    session = parse_flatbuffer(data, ORT_SESSION, identifier=ORT_IDENTIFIER)
    model = session["model"]
    nodes = model["graph"].get("nodes", [])
    versions = {"ORT format": int(session["ort_version"]), "IR": int(model["ir_version"])}
    return versions | _opsets(model, nodes), map(_qualified, nodes)


def _opsets(model: dict[str, Any], nodes: Iterable[dict[str, Any]]) -> Versions:
    """Return the versions of the domains in use: ONNX Runtime stores all that it knows."""
    used = {_domain(node) for node in nodes}
    versions = {_domain(one): int(one.get("version", 0)) for one in model["opset_import"]}
    return {f"opset {name}": version for name, version in versions.items() if name in used}


def _domain(part: dict[str, Any]) -> str:
    return part.get("domain") or _STANDARD


def _qualified(node: dict[str, Any]) -> str:
    return f"{_domain(node)}:{node['op_type']}"


def _lite(data: bytes) -> Found:
    version, operators, instructions = read_bytecode(data)
    return {"bytecode": version}, [
        operators[operand] for code, operand, _ in instructions if code in ("OP", "OPN")
    ]


def _tflite(data: bytes) -> Found:
    model = parse_flatbuffer(data, TFLITE_MODEL, identifier=TFLITE_IDENTIFIER)
    names, versions = [], {"schema": int(model["version"])}
    for code in model.get("operator_codes", []):
        number = max(code.get("builtin_code", 0), code.get("deprecated_builtin_code", 0))
        names.append(TFLITE_OPERATORS[number])
        versions[f"{names[-1]} version"] = int(code.get("version", 1))
    return versions, [
        names[operator.get("opcode_index", 0)]
        for graph in model["subgraphs"]
        for operator in graph.get("operators", [])
    ]


def _pte(data: bytes) -> Found:
    program = parse_flatbuffer(data, PTE_PROGRAM, identifier=PTE_IDENTIFIER)
    plan = program["execution_plan"][0]
    names = []
    for chain in plan.get("chains", []):
        for instruction in chain.get("instructions", []):
            kind, call = instruction.get("instr_args_type"), instruction.get("instr_args", {})
            if kind == KERNEL:
                operator = plan["operators"][call.get("op_index", 0)]
                overload = operator.get("overload", "")
                names.append(operator["name"] + (f".{overload}" if overload else ""))
            elif kind == DELEGATE:
                # XNNPACK's own graph is one call here.
                names.append(plan["delegates"][call.get("delegate_index", 0)]["id"])
    return {"schema": int(program.get("version", 0))}, names


_READERS: dict[ArtifactFormat, Callable[[bytes], Found]] = {
    "onnx": _onnx,
    "ort": _ort,
    "torchscript-lite": _lite,
    "litert": _tflite,
    "executorch": _pte,
}
