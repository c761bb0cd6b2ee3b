"""What is kept of a failed check: inputs and outputs of the images that show the failure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from records import files
from records.hashing import sha256_file
from records.parity import Evidence, Gate, Mode
from runtime_check.gates import failed
from runtime_check.passes import Fp32Comparison, Int8Pass, WireComparison

KEPT_LOST = 16

Arrays = dict[str, npt.NDArray[Any]]
Images = npt.NDArray[np.uint8]
Lost = dict[tuple[str, Mode], npt.NDArray[np.bool_]]


def failed_arrays(
    gates: Iterable[Gate],
    images: Images,
    passes: Iterable[Int8Pass],
    wires: Iterable[WireComparison],
    fp32: Iterable[Fp32Comparison],
) -> Arrays:
    """Return the arrays that show why gates failed; empty when none did.

    Keys are ``<artifact>.<mode>.<what>``. ``worst_*``: the at most 16 images farthest from eager
    INT8: index int64 (K,), images uint8 (K, H, W, 3), reference and artifact uint8 (K, …).
    ``wire_*``: the first image where the dequantized wire is not the float boundary: index (1,),
    image, and both boundaries float32. ``fp32_*``: the image where two FP32 edges differ most.

    Args:
        gates: all gates of the check.
        images: the victim set, uint8 (N, H, W, 3).
        passes: every INT8 pass.
        wires: every comparison of wire and float boundary.
        fp32: every comparison of FP32 edges.
    """
    missed = {(gate.name, gate.artifact, gate.mode) for gate in failed(gates)}
    places = {place[1:] for place in missed if place[0] != "convolutions_fused"}
    found: Arrays = {}
    for one in passes:
        if (one.artifact.name, one.loaded.mode) in places:
            found.update(_worst(one, images))
    for pair in wires:
        where = (pair.wire_pass.artifact.name, pair.wire_pass.loaded.mode)
        if ("wire_equals_float", *where) in missed:
            found.update(_wire(pair, images))
    for couple in fp32:
        where = (couple.other.artifact.name, couple.other.loaded.mode)
        if ("fp32_parity_sqnr_db", *where) in missed:
            found.update(_fp32(couple, images))
    return found


def lost_arrays(gates: Iterable[Gate], images: Images, lost: Lost) -> Arrays:
    """Return, for each failed top-1 gate, images that the FP32 edge gets right and this one wrong.

    Args:
        gates: all gates of the check.
        images: the victim set, uint8 (N, H, W, 3).
        lost: (artifact, mode) → bool (N,).

    Returns:
        ``<artifact>.<mode>.lost_index`` int64 of all of them, ``…lost_images`` of the first 16.
    """
    found: Arrays = {}
    for gate in failed(gates):
        if gate.name in {"top1_agreement", "accuracy_drop_points"}:
            key = f"{gate.artifact}.{gate.mode}"
            index = np.flatnonzero(lost[gate.artifact, gate.mode])
            found[f"{key}.lost_index"] = index
            found[f"{key}.lost_images"] = images[index[:KEPT_LOST]]
    return found


def write_evidence(path: Path, arrays: Arrays, *, replace: bool) -> Evidence | None:
    """Write the arrays as one npz file by atomic rename; none leaves no file.

    Args:
        path: the file.
        arrays: name → array, none of dtype object.
        replace: allow an existing file to be replaced, or removed where there is nothing to show.

    Raises:
        OverwriteError: the file exists and ``replace`` is false.
    """
    if not arrays:
        if replace:
            # What an older check left would be taken for this one's.
            path.unlink(missing_ok=True)
        return None

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    files.write_file(path, write, replace=replace)
    return Evidence(file=path.name, sha256=sha256_file(path))


def _worst(one: Int8Pass, images: Images) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    worst, key = one.tally.worst, f"{one.artifact.name}.{one.loaded.mode}"
    if worst is not None:
        yield f"{key}.worst_index", worst.index
        yield f"{key}.worst_images", images[worst.index]
        yield f"{key}.worst_reference", worst.reference
        yield f"{key}.worst_artifact", worst.artifact


def _wire(pair: WireComparison, images: Images) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    key = f"{pair.wire_pass.artifact.name}.{pair.wire_pass.loaded.mode}"
    if pair.first is not None:
        index, sent, real = pair.first
        yield f"{key}.wire_index", np.array([index])
        yield f"{key}.wire_images", images[[index]]
        yield f"{key}.wire_dequantized", sent[None]
        yield f"{key}.wire_float_boundary", real[None]


def _fp32(couple: Fp32Comparison, images: Images) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    key, worst = f"{couple.other.artifact.name}.{couple.other.loaded.mode}", couple.tally.worst
    if worst is not None:
        yield f"{key}.fp32_index", np.array([worst.index])
        yield f"{key}.fp32_images", images[[worst.index]]
        yield f"{key}.fp32_reference", worst.reference[None]
        yield f"{key}.fp32_artifact", worst.other[None]
