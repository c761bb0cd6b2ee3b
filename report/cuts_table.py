"""Every cut in a row: the accuracy that INT8 costs, calibrated only and trained, and sizes."""

from __future__ import annotations

from records.results import ArtifactFigures, Results, SplitFigures

#: What an INT8 edge may lose in percentage points, and the upper end of its interval.
MOST_LOST = 1.0
MOST_LOST_UPPER = 1.5

_HEAD = (
    "| cut | calibrated only: points lost | trained: `.ptl` | trained: QDQ ONNX | needed | "
    "weights | `.ptl` | `.onnx` |"
)
_RULE = "|---|---:|---:|---:|---|---:|---:|---:|"


def cuts_markdown(trained: Results, calibrated: Results) -> str:
    """Return one Markdown row a cut.

    Args:
        trained: INT8 after quantization-aware training, a run as far as check.
        calibrated: the same cuts with ranges from calibration alone; a cut may be missing.

    Returns:
        Markdown ending in a newline; points of top-1 with their interval, sizes as INT8 bytes and
        how many times smaller than FP32 that is.
    """
    before = {split.split: split for split in calibrated.splits}
    victims = trained.splits[0].victims
    top1 = trained.whole_network_top1
    rows = [_row(split, before.get(split.split)) for split in trained.splits]
    whole = "" if top1 is None else f", whole network in FP32 {100 * top1:.2f} %"
    return "\n".join(
        [
            f"Data `{trained.data}`, {victims:,} test images{whole}; measured through the exported "
            f"files. Needed: calibration where it loses ≤ {MOST_LOST:g} point with an upper end "
            f"≤ {MOST_LOST_UPPER:g}, else training.",
            "",
            _HEAD,
            _RULE,
            *rows,
            "",
        ]
    )


def _row(split: SplitFigures, before: SplitFigures | None) -> str:
    lite, onnx = _edge(split, "edge_int8_lite"), _edge(split, "edge_int8_onnx")
    calibrated = None if before is None else _edge(before, "edge_int8_lite")
    cells = (
        f"`{split.split}`",
        _lost(calibrated),
        _lost(lite),
        _lost(onnx),
        "–" if calibrated is None else "calibration" if within_limits(calibrated) else "training",
        _ratio(split, "edge_fp32_onnx", "edge_int8_onnx", weights=True),
        _ratio(split, "edge_fp32_lite", "edge_int8_lite", weights=False),
        _ratio(split, "edge_fp32_onnx", "edge_int8_onnx", weights=False),
    )
    return "| " + " | ".join(cells) + " |"


def within_limits(artifact: ArtifactFigures) -> bool:
    """Return whether the loss and the upper end of its interval are small enough."""
    if artifact.drop_points is None:
        return False
    lost, _, upper = artifact.drop_points
    return lost <= MOST_LOST and upper <= MOST_LOST_UPPER


def _edge(split: SplitFigures, name: str) -> ArtifactFigures | None:
    return next((a for a in split.artifacts if a.name == name), None)


def _lost(artifact: ArtifactFigures | None) -> str:
    if artifact is None or artifact.drop_points is None:
        return "–"
    lost, low, high = artifact.drop_points
    return f"{lost:.2f} [{low:.2f}, {high:.2f}]"


def _ratio(split: SplitFigures, fp32: str, int8: str, *, weights: bool) -> str:
    large, small = _edge(split, fp32), _edge(split, int8)
    if large is None or small is None:
        return "–"
    before, after = ((a.weight_bytes if weights else a.file_bytes) for a in (large, small))
    return f"{after / 1000:,.1f} kB ({before / after:.2f}×)"
