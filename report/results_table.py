"""The README's tables, made from a committed results file and from nothing else."""

from __future__ import annotations

from records.counted import counted
from records.results import ArtifactFigures, Results, SplitFigures
from report.units import bit_width

_HEAD = (
    "| artifact | weights | file | top-1 (drop) | same as eager INT8 | p50, 1 thread | "
    "speed-up | A0 | A1 | verdict |"
)
_RULE = "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|"


def results_markdown(results: Results) -> str:
    """Return one Markdown table a split, with the sentence that says what it stands on.

    Args:
        results: the figures of one run.

    Returns:
        Markdown ending in a newline; sizes in kB (1 kB = 1000 bytes), ``recon_psnr_db`` in dB.
    """
    return "\n".join(_split_markdown(split, results) for split in results.splits)


def _split_markdown(split: SplitFigures, results: Results) -> str:
    fp32 = {_runtime(a): a for a in split.artifacts if a.precision == "fp32"}
    rows = [_row(a, fp32.get(_runtime(a)), split) for a in split.artifacts]
    return "\n".join(
        [f"**`{split.split}`**: {_basis(split, results)}", "", _HEAD, _RULE, *rows, ""]
    )


def _basis(split: SplitFigures, results: Results) -> str:
    shape = "×".join(map(str, split.boundary_shape))
    bits = "" if split.wire_bits == 8 else f" at {bit_width(split.wire_bits)}"
    parts = [
        f"data `{results.data}`, {counted(split.attacker_images, 'attacker image')}, "
        f"{counted(split.victims, 'victim')}, "
        f"{counted(len(split.attacker_seeds), 'attacker seed')}",
        f"boundary {shape}{bits} = {split.wire_bytes:,} bytes sent, image {split.image_bytes:,}",
    ]
    if split.floor_db is not None and split.ceiling_db is not None:
        parts.append(
            f"floor {split.floor_db:.2f} dB, pass-through ceiling {split.ceiling_db:.2f} dB, "
            f"margin {split.margin_db:g} dB"
        )
    if results.machine is not None:
        valid = "" if split.bench_valid else ", INVALID run"
        parts.append(f"latency on {results.machine}{valid}")
    return "; ".join(parts) + "." + _faint(split)


def _faint(split: SplitFigures) -> str:
    """Say where FP32 features leak less over the floor than the margin: as the attack's note."""
    leaks = [
        artifact.attack.max_leak_db
        for artifact in split.artifacts
        if artifact.precision == "fp32" and artifact.attack is not None
    ]
    if not leaks or max(leaks) >= split.margin_db:
        return ""
    return (
        f" **FP32 features leak only {max(leaks):.2f} dB over the floor, less than the margin: the "
        "verdict says little.**"
    )


def _row(artifact: ArtifactFigures, fp32: ArtifactFigures | None, split: SplitFigures) -> str:
    cells = (
        f"`{artifact.file}`",
        _size(artifact.weight_bytes, None if fp32 is None else fp32.weight_bytes),
        _size(artifact.file_bytes, None if fp32 is None else fp32.file_bytes),
        _accuracy(artifact),
        _parity(artifact, split),
        _latency(artifact, split),
        _speed(artifact),
        _psnr(artifact, "A0"),
        _psnr(artifact, "A1"),
        _verdict(artifact),
    )
    return "| " + " | ".join(cells) + " |"


def _runtime(artifact: ArtifactFigures) -> str:
    return artifact.file.rpartition(".")[2]


def _size(size: int, reference: int | None) -> str:
    kilobytes = f"{size / 1000:,.1f} kB"
    if reference is None or reference == size:
        return kilobytes
    return f"{kilobytes} ({reference / size:.2f}× smaller)"


def _accuracy(artifact: ArtifactFigures) -> str:
    if artifact.top1 is None:
        return "–"
    top1 = f"{100 * artifact.top1:.2f} %"
    if artifact.drop_points is None:
        return top1
    drop, low, high = artifact.drop_points
    return f"{top1} ({drop:.2f} [{low:.2f}, {high:.2f}])"


def _parity(artifact: ArtifactFigures, split: SplitFigures) -> str:
    if artifact.share_identical is None or artifact.share_within_1_lsb is None:
        return "–"
    if artifact.share_identical == 1.0:
        return "bit for bit"
    if split.wire_bits < 8:
        # A step is coarse there, and at 1 bit no two values differ by more than one.
        return f"{100 * artifact.share_identical:.2f} % identical, max {artifact.max_lsb} LSB"
    return f"{100 * artifact.share_within_1_lsb:.2f} % within 1 LSB, max {artifact.max_lsb}"


def _latency(artifact: ArtifactFigures, split: SplitFigures) -> str:
    if artifact.speed is None:
        return "–"
    # A noisy or throttled run's figures are not quoted.
    return f"{artifact.speed.p50_ms:.3f} ms" if split.bench_valid else "INVALID"


def _speed(artifact: ArtifactFigures) -> str:
    speed = artifact.speed
    if speed is None or speed.verdict is None:
        return "–"
    if speed.ratio is None:
        return "INVALID"
    return f"{speed.ratio:.2f}× [{speed.low:.2f}, {speed.high:.2f}] {speed.verdict}"


def _psnr(artifact: ArtifactFigures, level: str) -> str:
    if artifact.attack is None:
        return "–"
    value = {str(k): v for k, v in artifact.attack.recon_psnr_db.items()}.get(level)
    return "–" if value is None else f"{value:.2f} dB"


def _verdict(artifact: ArtifactFigures) -> str:
    attack = artifact.attack
    if attack is None or attack.verdict is None:
        return "baseline" if artifact.precision == "fp32" else "–"
    return (
        f"**{attack.verdict}** ({attack.advantage_db:+.2f} "
        f"[{attack.lower_db:+.2f}, {attack.upper_db:+.2f}] dB)"
    )
