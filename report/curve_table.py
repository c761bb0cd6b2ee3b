"""The privacy curve as a README's table: one row a split and bit width, of a finished sweep."""

from __future__ import annotations

from collections.abc import Sequence

from records.sweep import Candidate, FailedGate, Group, GroupArtifact, GroupLevel, Sweep


def curve_markdown(sweep: Sweep) -> str:
    """Return one Markdown row a point and attacker, FP32 beside what is sent.

    Args:
        sweep: a finished sweep.

    Returns:
        Markdown ending in a newline; ``recon_psnr_db`` in dB, mean over victims and seeds.
    """
    levels = list(
        dict.fromkeys(one.level for g in sweep.groups for a in g.artifacts for one in a.levels)
    )
    head = ["cut", "bits", "sent", "points lost", *levels, "re-identified", "FP32"]
    head += ["hides", "verdict", "seeds"]
    rule = ["---", *["---:"] * (len(head) - 3), "---", "---:"]
    rows = [_row(sweep, group, levels) for group in sweep.groups]
    return "\n".join([_basis(sweep), "", _line(head), _line(rule), *map(_line, rows), ""])


def _basis(sweep: Sweep) -> str:
    attack = sweep.grid.base.attack
    controls = _failed(sweep, "attack")
    parity = _failed(sweep, "check")
    green = "all controls green" if not controls else "controls green but for those named"
    floors = {f"{group.floor_db:.2f}" for group in sweep.groups}
    return (
        f"Data `{sweep.data.source.partition(':')[0]}`, {sweep.data.attacker.count:,} attacker "
        f"images, {sweep.data.victim.count:,} victims; floor {', '.join(sorted(floors))} dB, "
        f"margin {attack.margin_db:g} dB; {green}. FP32: the strongest attacker on the FP32 "
        f"features. {_white_box(sweep)}Hides: how much less it gets, in dB, with one-sided "
        f"{100 * attack.confidence:g} % bounds: the verdict is about that difference alone. "
        "Re-identified: whose reconstruction is nearest to its own original among all victims', by "
        f"the best attacker.{_named('CONTROLS FAILED, so no verdict', controls)}"
        f"{_named('Parity gates not met', parity)}{_faint(sweep)}"
    )


def _faint(sweep: Sweep) -> str:
    """Name the cuts where FP32 features leak less over the floor than the margin."""
    cuts = dict.fromkeys(f"`{g.split}`" for g in sweep.groups if g.note is not None)
    if not cuts:
        return ""
    return (
        f" **At {', '.join(cuts)} FP32 features themselves leak less than the margin over the "
        "floor: a verdict there says little.**"
    )


def _white_box(sweep: Sweep) -> str:
    """Say how A2's mean is over all victims, where it attacked some."""
    levels = [one for g in sweep.groups for a in g.artifacts for one in a.levels]
    attacked = [one.victims for one in levels if one.level == "A2"]
    if not attacked or min(attacked) == max(one.victims for one in levels):
        return ""
    return f"A2: A1's mean plus A2's gain over it on the same {min(attacked):,} images. "


def _failed(sweep: Sweep, stage: str) -> tuple[str, ...]:
    """Name each gate of a stage that failed, once a cut, with its worst figure."""
    found: dict[tuple[str, str], list[FailedGate]] = {}
    bits: dict[tuple[str, str], list[int]] = {}
    for group in sweep.groups:
        for gate in group.failed_gates:
            if gate.stage == stage:
                found.setdefault((group.split, gate.name), []).append(gate)
                bits.setdefault((group.split, gate.name), []).append(group.boundary_bits)
    return tuple(
        f"`{split}` at {', '.join(map(str, dict.fromkeys(bits[split, name])))} bits: {name} "
        f"{_worst(gates)}, limit {gates[0].limit:g}"
        for (split, name), gates in found.items()
    )


def _worst(gates: Sequence[FailedGate]) -> str:
    """Return the figure farthest from the limit."""
    measured = [(abs(g.measured - g.limit), g.measured) for g in gates if g.measured is not None]
    return f"{max(measured)[1]:.3g}" if measured else "not finite"


def _named(what: str, failed: Sequence[str]) -> str:
    return f" **{what}:** {'; '.join(failed)}." if failed else ""


def _row(sweep: Sweep, group: Group, levels: Sequence[str]) -> list[str]:
    worst = min(_judged(group), key=lambda a: a.advantage_db or 0.0)
    fp32 = next((a for a in group.artifacts if a.precision == "fp32"), None)
    sent = _sent(sweep, group)
    lost = None if sent is None else sent.drop_points
    return [
        f"`{group.split}`",
        str(group.boundary_bits),
        "–" if sent is None else f"{sent.wire_bytes:,} B",
        "–" if lost is None else f"{lost[0]:.2f}",
        *[_level(worst, level, group.floor_db) for level in levels],
        f"{100 * max(one.reidentified.mean for one in worst.levels):.1f} %",
        "–" if fp32 is None else f"{_strongest_db(fp32, group.floor_db):.2f}",
        f"{worst.advantage_db:+.2f} [{worst.lower_db:+.2f}, {worst.upper_db:+.2f}]",
        f"**{group.verdict}**",
        str(len(group.seeds)),
    ]


def _sent(sweep: Sweep, group: Group) -> Candidate | None:
    point = (group.split, group.boundary_bits)
    return next((c for c in sweep.candidates if (c.split, c.boundary_bits) == point), None)


def _judged(group: Group) -> list[GroupArtifact]:
    return [a for a in group.artifacts if a.advantage_db is not None]


def _strongest_db(artifact: GroupArtifact, floor_db: float) -> float:
    """Return the strongest attacker's mean over all victims, as the verdict takes it."""
    return floor_db + artifact.leak_db.mean


def _level(artifact: GroupArtifact, level: str, floor_db: float) -> str:
    """Return the strongest of a level's rows: A3 has one a query budget.

    A2 attacks the first victims only. Its mean over all is A1's plus its gain on the same images;
    where it gains, that is the artifact's strongest, and its own mean would be of other images.
    """
    found: list[GroupLevel] = [one for one in artifact.levels if one.level == level]
    if not found:
        return "–"
    most = max(one.victims for one in artifact.levels)
    if level == "A2" and all(one.victims < most for one in found):
        return f"{_strongest_db(artifact, floor_db):.2f}"
    return f"{max(one.recon_psnr_db.mean for one in found):.2f}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
