"""Our INT8 edges against plain exports of the same float edge, in instructions on ARM.

``python -m benchmarks.arm_comparison BUNDLE --target cortex-a76 [--weights FILE] [--data SOURCE]
[--out FILE]``: our ONNX beside ``quantize_static``'s, and with the network's checkpoint the
bundle's best edge beside ExecuTorch's own export.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from baseline.datasets import load_splits
from baseline.preprocessing import preprocess
from benchmarks.against_executorch import OWN, OwnProgram, int8_edges, own_program, verdict
from benchmarks.instructions import count_models
from benchmarks.plain_static import TOOL, Activations, plain_static
from export.bundle import Bundle, load_bundle
from records import codec
from records.arm_comparison import ArmComparisonRecord, ExecutorchExport, PlainExport
from records.errors import EdgeveilError, GateFailedError, InputError, UnsupportedHereError
from records.hashing import sha256_array, sha256_bytes
from records.instructions import NOTE, ArtifactInstructions
from records.manifest import Artifact, Manifest
from records.progress import Progress, silent
from records.target import SkippedArtifact
from runtime_check.targets.open_target import opened_emulated
from runtime_check.targets.target import Target

#: By so much ours must be below each plain export.
LEAST_SAVING = 0.2
#: Enough for the ranges of a plain export; its cost does not depend on them.
CALIBRATION = 256
_ACTIVATIONS: tuple[Activations, ...] = ("int8", "uint8")
_VERSIONED = ("onnx", "onnxruntime")
_VERSIONED_WITH_OWN = ("torch", "executorch", "torchao")

Images = npt.NDArray[np.float32]


def calibration_images(manifest: Manifest, source: str | None = None) -> Images:
    """Return the first of the bundle's own calibration images, float32 (N, 3, S, S).

    Args:
        manifest: names the source and the preprocessing.
        source: where the same data is on this machine; None takes the manifest's.

    Raises:
        DataError: the source is not here.
        InputError: it has no calibration images.
    """
    data = msgspec.structs.replace(manifest.recipe.data, download=False)
    if source is not None:
        data = msgspec.structs.replace(data, source=source)
    images = load_splits(data).calibration.images[:CALIBRATION]
    if len(images) == 0:
        raise InputError("the bundle's data has no calibration images")
    return preprocess(images, manifest.preprocessing)


def compare(
    bundle: Bundle,
    target: Target,
    images: Images,
    *,
    weights: Path | None = None,
    progress: Progress = silent,
) -> ArmComparisonRecord:
    """Count our INT8 edges, the FP32 one and plain exports of that, on one target.

    Args:
        bundle: a verified bundle.
        target: an emulated CPU.
        images: preprocessed calibration images, float32 (N, 3, S, S).
        weights: the checkpoint that the bundle was exported from; None leaves ExecuTorch's own
            export out.
        progress: told about each model.

    Returns:
        The record; ``passed`` is false when our ONNX is not `LEAST_SAVING` below each plain one,
        the best edge is above ExecuTorch's own export, or two processes differ. What cannot be
        compared with ExecuTorch here is in ``skipped``.

    Raises:
        UnsupportedHereError: the bundle has no INT8 ONNX edge, or nothing counts there.
        InputError: the weights are not those of the bundle.
        ExportError: a plain export fails.
        ArtifactError: a model does not load or run there.
    """
    started, begin = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    fp32, ours = (_onnx_edge(bundle, precision) for precision in ("fp32", "int8"))
    source = bundle.read(fp32)
    plain = {a: plain_static(source, fp32.input.name, images, a) for a in _ACTIVATIONS}
    own, edges, skipped = _against_executorch(bundle, target, fp32, images, weights)
    models = [(fp32, source), (ours, bundle.read(ours))]
    models += [(_like(ours, fp32, kind, data), data) for kind, data in plain.items()]
    models += [(one, bundle.read(one)) for one in edges if one != ours]
    models += [] if own is None else [(own.artifact, own.data)]
    batch = np.random.default_rng(0).standard_normal((1, *fp32.input.shape)).astype(np.float32)
    counted = {c.artifact: c for c in count_models(target, models, batch, progress=progress)}
    exports = tuple(
        _plain(kind, data, counted[_name(kind)], counted[ours.name]) for kind, data in plain.items()
    )
    executorch = None
    if own is not None:
        executorch = verdict(own, counted[own.artifact.name], [counted[e.name] for e in edges])
    record = ArmComparisonRecord(
        bundle_id=bundle.manifest.bundle_id,
        split=bundle.manifest.split,
        input_shape=fp32.input.shape,
        target=target.record,
        versions=_versions(own is not None),
        calibration_images=len(images),
        calibration_sha256=sha256_array(images),
        fp32=counted[fp32.name],
        ours=counted[ours.name],
        plain=exports,
        least_saving=LEAST_SAVING,
        executorch=executorch,
        skipped=skipped,
        note=NOTE,
        passed=False,
        started_at=started,
        seconds=time.monotonic() - begin,
    )
    return msgspec.structs.replace(record, passed=not failures(record))


def _against_executorch(
    bundle: Bundle, target: Target, fp32: Artifact, images: Images, weights: Path | None
) -> tuple[OwnProgram | None, tuple[Artifact, ...], tuple[SkippedArtifact, ...]]:
    """Return ExecuTorch's own program, the edges to count beside it, and what is left out."""
    try:
        own = own_program(bundle, target, fp32, images, weights)
    except UnsupportedHereError as error:
        return None, (), (SkippedArtifact(artifact=OWN, reason=str(error)),)
    return own, *int8_edges(bundle, target)


def _versions(own: bool) -> dict[str, str]:
    names = (*_VERSIONED, *(_VERSIONED_WITH_OWN if own else ()))
    return {name: version(name) for name in names}


def failures(record: ArmComparisonRecord) -> list[str]:
    """Return what of a comparison does not hold, in words."""
    found = []
    if not all(one.saves for one in record.plain):
        found.append(f"our ONNX is not {record.least_saving:.0%} below each plain one")
    own = record.executorch
    if own is not None and not own.not_above:
        found.append(f"the best edge, {own.best}, is above ExecuTorch's own export")
    counts = [record.fp32, record.ours, *(one.counted for one in record.plain)]
    counts += [] if own is None else [own.counted, *own.int8]
    apart = dict.fromkeys(one.artifact for one in counts if not one.repeatable)
    if apart:
        found.append(f"counts of {', '.join(apart)} differ between two processes")
    return found


def _onnx_edge(bundle: Bundle, precision: str) -> Artifact:
    for artifact in bundle.edges():
        kind = (artifact.format, artifact.precision, artifact.boundary)
        if kind == ("onnx", precision, "float"):
            return artifact
    raise UnsupportedHereError(f"the bundle has no {precision} ONNX edge with a float boundary")


def _name(kind: Activations) -> str:
    return f"quantize_static_{kind}"


def _like(ours: Artifact, fp32: Artifact, kind: Activations, data: bytes) -> Artifact:
    """Describe a plain export: the float edge's ends, our mode."""
    return msgspec.structs.replace(
        ours,
        name=_name(kind),
        file=f"{_name(kind)}.onnx",
        input=fp32.input,
        output=fp32.output,
        sha256=sha256_bytes(data),
        size=len(data),
    )


def _plain(
    kind: Activations, data: bytes, counted: ArtifactInstructions, ours: ArtifactInstructions
) -> PlainExport:
    ratio = ours.mean.all / counted.mean.all
    return PlainExport(
        tool=TOOL,
        activations=kind,
        sha256=sha256_bytes(data),
        file_bytes=len(data),
        counted=counted,
        ratio=ratio,
        saves=ratio <= 1 - LEAST_SAVING,
    )


def _print(record: ArmComparisonRecord) -> None:
    print(f"{record.split}, {record.input_shape}, {record.target.name}: {record.note}")
    rows = [("FP32", record.fp32), ("ours", record.ours)]
    rows += [(f"{export.tool}, {export.activations}", export.counted) for export in record.plain]
    for name, counted in rows:
        share = record.ours.mean.all / counted.mean.all
        print(f"  {name:52} {counted.mean.all:12,} ours is {share:.3f} of it")
    if record.executorch is not None:
        _print_executorch(record.executorch)
    for one in record.skipped:
        print(f"skipped {one.artifact}: {one.reason}")


def _print_executorch(export: ExecutorchExport) -> None:
    for counted in (export.counted, *export.int8):
        name = export.tool if counted is export.counted else counted.artifact
        print(f"  {name:52} {counted.mean.all:12,}")
    print(f"  the best, {export.best}, is {export.ratio:.3f} of ExecuTorch's own")


def main(arguments: Sequence[str]) -> int:
    """Write and print the comparison for one bundle on one emulated CPU.

    Raises:
        SystemExit: of argparse, for wrong arguments; every other error is printed and returned as
            an exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arm_comparison")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--target", required=True, help="cortex-a72 or cortex-a76")
    parser.add_argument("--target-cache", type=Path, help="as of `edgeveil target prepare`")
    parser.add_argument("--data", help="where the bundle's data is on this machine")
    parser.add_argument("--weights", type=Path, help="the network's checkpoint, for ExecuTorch")
    parser.add_argument("--out", type=Path, help="the record")
    parser.add_argument("--force", action="store_true", help="replace an existing record")
    options = parser.parse_args(arguments)
    try:
        bundle = load_bundle(options.bundle)
        images = calibration_images(bundle.manifest, options.data)
        with opened_emulated(options.target, options.target_cache) as target:
            record = compare(bundle, target, images, weights=options.weights)
        if options.out is not None:
            codec.write(options.out, record, replace=options.force)
        _print(record)
        if not record.passed:
            raise GateFailedError("; ".join(failures(record)))
    except EdgeveilError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
