"""The bundle in tables: artifacts with sizes and hashes, the wire tensor, nodes left in float."""

from __future__ import annotations

from records.manifest import Artifact, Manifest, WireTensor
from report.document import Block, Cell, Heading, Paragraph, Section, Table, code, columns, text
from report.load import RunRecords
from report.units import NONE, bit_width, count, number, shape, short_hash, size


def bundle_section(run: RunRecords) -> Section:
    """Return what was exported, split by split."""
    blocks: list[Block] = []
    for records in run.splits:
        blocks.append(Heading(records.split, code=True))
        if records.manifest is None:
            blocks.append(Paragraph("Not run: there is no bundle.", "muted"))
        else:
            blocks += _bundle(records.manifest)
    if not run.splits:
        blocks.append(Paragraph("Not run: there is no bundle.", "muted"))
    return Section("bundle", "Bundle", tuple(blocks))


def _bundle(manifest: Manifest) -> list[Block]:
    wire = manifest.wire
    values = 1
    for dimension in wire.shape:
        values *= dimension
    return [
        Paragraph(
            f"Input {shape(manifest.input.shape)} float32; boundary "
            f"{shape(manifest.boundary.shape)} = {count(values)} values. What is sent is uint8"
            f"{_sent_bits(wire)}: "
            f"real value = {number(wire.scale, 6)} × (q − {wire.zero_point}). Quantized by FX "
            f"graph mode PTQ, engine {manifest.engine}; {len(manifest.qparams)} quantized "
            "tensors, each with one scale and zero point that all formats share."
        ),
        Paragraph(_float_nodes(manifest.float_nodes)),
        Table(
            caption=f"Artifacts of {manifest.split}",
            columns=columns(
                "Artifact",
                "Role",
                "Format",
                "Precision",
                "Ends with",
                ">Weights",
                ">File",
                "SHA-256",
            ),
            rows=tuple(_artifact(a) for a in manifest.artifacts),
            note=(
                "Weights: bytes of weights and biases as stored. File: all of it, code and graph "
                "included. 1 kB = 1000 bytes."
            ),
        ),
    ]


def _sent_bits(wire: WireTensor) -> str:
    if wire.bits == 8:
        return ""
    return (
        f" from 0 to {wire.largest}, {bit_width(wire.bits)} a value, {size(wire.packed_bytes)} per "
        "image when packed (docs/wire-format.md)"
    )


def _artifact(artifact: Artifact) -> tuple[Cell, ...]:
    version = ""
    if artifact.opset is not None:
        version = f", opset {artifact.opset}"
    elif artifact.bytecode_version is not None:
        version = f", bytecode {artifact.bytecode_version}"
    ends = f"{artifact.boundary}: {shape(artifact.output.shape)} {artifact.output.dtype}"
    return (
        code(artifact.name),
        text(artifact.role),
        text(artifact.format + version),
        text(artifact.precision),
        text(NONE if artifact.role == "reference" else ends),
        text(size(artifact.weight_bytes)),
        text(size(artifact.size)),
        code(short_hash(artifact.sha256)),
    )


def _float_nodes(names: tuple[str, ...]) -> str:
    if not names:
        return "No node of the INT8 edge was left in float."
    return f"Left in float inside the INT8 edge: {', '.join(names)}."
