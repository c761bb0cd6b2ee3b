"""Reading an attack record: which artifact leaks how much, under which attacker."""

from __future__ import annotations

from records.attack import ArtifactAttack, AttackRecord, Level, LevelResult

ATTACKERS: dict[Level, str] = {
    "A0": "an attacker who reuses a decoder trained on FP32 features",
    "A1": "an attacker who retrains on the artifact's own outputs",
    "A2": "an attacker who knows its weights and descends on the image",
    "A3": "an attacker who may run it on few images",
    "A4": "an attacker who has images of another source only",
}


def find_artifact(record: AttackRecord, name: str) -> ArtifactAttack | None:
    """Return what was done to the artifact of that name, or None."""
    return next((a for a in record.artifacts if a.name == name), None)


def results_of(artifact: ArtifactAttack, level: Level) -> tuple[LevelResult, ...]:
    """Return one result per attacker seed; empty when the level was not run."""
    return tuple(r for r in artifact.levels if r.level == level)


def mean_psnr_db(artifact: ArtifactAttack, level: Level) -> float | None:
    """Return the level's mean ``recon_psnr_db`` over its victims and seeds, None when not run.

    Of A3's query budgets the largest counts.
    """
    results = results_of(artifact, level)
    most = max((r.queries or 0 for r in results), default=0)
    means = [r.result.recon_psnr_db.mean for r in results if (r.queries or 0) == most]
    return sum(means) / len(means) if means else None


def query_curve(artifact: ArtifactAttack) -> tuple[tuple[int, float], ...]:
    """Return A3's training pairs and mean ``recon_psnr_db`` over seeds, ascending."""
    found: dict[int, list[float]] = {}
    for result in results_of(artifact, "A3"):
        if result.queries is not None:
            found.setdefault(result.queries, []).append(result.result.recon_psnr_db.mean)
    return tuple((queries, sum(db) / len(db)) for queries, db in sorted(found.items()))


def baseline_psnr_db(record: AttackRecord) -> float | None:
    """Return what the strongest attacker gets from FP32 features, in dB of ``recon_psnr_db``."""
    baseline = find_artifact(record, record.baseline)
    return None if baseline is None else baseline.max_recon_psnr_db


def floor_db(record: AttackRecord) -> float:
    """Return the floor: ``recon_psnr_db`` of guessing the attacker set's mean image, in dB."""
    return record.controls.floor.recon_psnr_db.mean
