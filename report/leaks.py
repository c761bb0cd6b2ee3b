"""Reading an attack record: which artifact leaks how much, under which attacker."""

from __future__ import annotations

from records.attack import ArtifactAttack, AttackRecord, Level, LevelResult

ATTACKERS: dict[Level, str] = {
    "A0": "an attacker who reuses a decoder trained on FP32 features",
    "A1": "an attacker who retrains on the artifact's own outputs",
}


def find_artifact(record: AttackRecord, name: str) -> ArtifactAttack | None:
    """Return what was done to the artifact of that name, or None."""
    return next((a for a in record.artifacts if a.name == name), None)


def results_of(artifact: ArtifactAttack, level: Level) -> tuple[LevelResult, ...]:
    """Return one result per attacker seed; empty when the level was not run."""
    return tuple(r for r in artifact.levels if r.level == level)


def mean_psnr_db(artifact: ArtifactAttack, level: Level) -> float | None:
    """Return the level's mean ``recon_psnr_db`` over victims and seeds, None when not run."""
    means = [r.result.recon_psnr_db.mean for r in results_of(artifact, level)]
    return sum(means) / len(means) if means else None


def baseline_psnr_db(record: AttackRecord) -> float | None:
    """Return what the strongest attacker gets from FP32 features, in dB of ``recon_psnr_db``."""
    baseline = find_artifact(record, record.baseline)
    return None if baseline is None else baseline.max_recon_psnr_db


def floor_db(record: AttackRecord) -> float:
    """Return the floor: ``recon_psnr_db`` of guessing the attacker set's mean image, in dB."""
    return record.controls.floor.recon_psnr_db.mean
