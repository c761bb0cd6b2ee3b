"""``python -m report.arm_results OUT FILE…``: one file of figures from records of ARM targets.

Where OUT itself is among the files, what it holds stays, but for what is measured anew.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from records import codec
from records.arm_comparison import ArmComparisonRecord
from records.arm_results import ArmAttack, ArmCount, ArmParity, ArmResults
from records.attack import AttackRecord
from records.errors import InputError
from records.instructions import InstructionRecord
from records.manifest import Manifest
from records.parity import CheckRecord, LsbDifference

_EAGER = "eager_int8"
_Known = (
    Manifest | InstructionRecord | CheckRecord | AttackRecord | ArmComparisonRecord | ArmResults
)
_TYPES: dict[str, type[_Known]] = {
    "edgeveil.bundle": Manifest,
    "edgeveil.instructions": InstructionRecord,
    "edgeveil.check": CheckRecord,
    "edgeveil.attack": AttackRecord,
    "edgeveil.arm-comparison": ArmComparisonRecord,
    "edgeveil.arm-results": ArmResults,
}

_Row = TypeVar("_Row")


class _Named(msgspec.Struct):
    schema: str = ""


def arm_results(paths: Iterable[Path]) -> ArmResults:
    """Return the figures of records, told apart by their schema.

    Args:
        paths: records of ``bench``, ``check`` and ``attack`` on emulated targets and of
            ``benchmarks.arm_comparison``, and the manifest of every bundle that they speak of;
            figures gathered before, which those of the records replace.

    Raises:
        InputError: a file is no such record, was made on no target, or its manifest is missing.
        RecordError: a file is malformed.
    """
    found = [_read(path) for path in paths]
    sizes = {m.bundle_id: m.preprocessing.image_size for m in found if isinstance(m, Manifest)}

    def size(bundle_id: str) -> int:
        if bundle_id not in sizes:
            raise InputError(f"name the manifest.json of the bundle {bundle_id[:16]} too")
        return sizes[bundle_id]

    before = [one for one in found if isinstance(one, ArmResults)]
    counts = [r for r in found if isinstance(r, InstructionRecord)]
    return ArmResults(
        counts=_newest(
            [row for one in before for row in one.counts],
            [ArmCount(image_size=size(r.bundle_id), record=r) for r in counts],
            lambda row: (row.record.split, row.image_size, row.record.target.name),
        ),
        parity=_newest(
            [row for one in before for row in one.parity],
            [
                row
                for record in found
                if isinstance(record, CheckRecord)
                for row in _parity(record, size(record.bundle_id))
            ],
            lambda row: (row.split, row.image_size, row.cpu, row.artifact),
        ),
        attacks=_newest(
            [row for one in before for row in one.attacks],
            [
                row
                for record in found
                if isinstance(record, AttackRecord)
                for row in _attacks(record)
            ],
            lambda row: (row.split, row.cpu, row.artifact),
        ),
        comparisons=_newest(
            [row for one in before for row in one.comparisons],
            [r for r in found if isinstance(r, ArmComparisonRecord)],
            lambda row: (row.split, row.input_shape, row.target.name),
        ),
    )


def _newest(
    before: Iterable[_Row], measured: Iterable[_Row], what: Callable[[_Row], Hashable]
) -> tuple[_Row, ...]:
    """Return what was measured, and of what was there before the rest, in its order."""
    return tuple({what(row): row for row in (*before, *measured)}.values())


def _read(path: Path) -> _Known:
    try:
        name = msgspec.json.decode(path.read_bytes(), type=_Named).schema.partition("/")[0]
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{path} is no record: {error}") from error
    if name not in _TYPES:
        raise InputError(f"{path} is a record of kind {name!r}, which has no ARM figures")
    return codec.read(path, _TYPES[name])


def _parity(record: CheckRecord, image_size: int) -> Iterator[ArmParity]:
    if record.target is None:
        raise InputError("a check that ran on no target has no ARM figures")
    for row in record.artifacts:
        beside = [one for one in record.host if one.artifact == row.artifact]
        if row.lsb is None or row.reference or row.mode == "optimizations-off":
            continue
        yield ArmParity(
            split=record.split,
            image_size=image_size,
            cpu=record.target.name,
            artifact=row.artifact,
            victims=record.victims.count,
            within_1_lsb=row.lsb.share_within_1_lsb,
            within_2_lsb=_within_2(row.lsb),
            max_lsb=row.lsb.max_lsb,
            # The host's own mode comes first, precise where its default kernels saturate.
            as_host=beside[0].from_host.share_identical if beside else None,
            host={one.host_mode: one.host_from_eager.share_within_1_lsb for one in beside},
        )


def _within_2(found: LsbDifference) -> float:
    return sum(found.histogram[:3]) / found.values


def _attacks(record: AttackRecord) -> Iterator[ArmAttack]:
    if record.target is None:
        raise InputError("an attack that ran on no target has no ARM figures")
    reached: dict[str, dict[str, float]] = {
        one.name: {level.level: level.result.recon_psnr_db.mean for level in one.levels}
        for one in record.artifacts
    }
    for verdict in record.verdicts:
        yield ArmAttack(
            split=record.split,
            cpu=record.target.name,
            artifact=verdict.artifact,
            victims=record.data.victim.count,
            attacker_images=record.data.attacker.count,
            db=reached[verdict.artifact],
            eager_db=reached.get(_EAGER, {}),
            verdict=verdict.verdict,
        )


def main(arguments: list[str]) -> None:
    """Write the figures of all files into the first one, replacing it.

    Args:
        arguments: where to, then the records and manifests.

    Raises:
        InputError: see `arm_results`.
        RecordError: a file is malformed.
    """
    out, *paths = (Path(a) for a in arguments)
    codec.write(out, arm_results(paths), replace=True)


if __name__ == "__main__":
    main(sys.argv[1:])
