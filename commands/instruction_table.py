"""What ``bench`` prints of an emulated target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from commands.plain_table import plain_table
from commands.target_option import skipped_lines, target_sentence

if TYPE_CHECKING:
    from pathlib import Path

    from records.instructions import InstructionRecord, Instructions

_CLASSES = ("simd_fp", "dot", "mmla", "widening_multiply", "fmla")


def print_instructions(record: InstructionRecord, path: Path) -> None:
    """Print the counts in thousands, INT8 against FP32, and what they do not say."""
    from rich.console import Console

    console = Console()
    console.print(target_sentence(record.target), markup=False, soft_wrap=True)
    table = plain_table(
        "Thousand instructions per inference, one image, one thread; this is no latency"
    )
    table.add_column("artifact", no_wrap=True)
    for column in ("all", "SIMD/FP", "dot", "mmla", "widen", "FMLA", "/ FP32", "spread"):
        table.add_column(column, justify="right", no_wrap=True)
    ratios = {ratio.int8: ratio.ratio for ratio in record.ratios}
    for row in record.artifacts:
        ratio = ratios.get(row.artifact)
        spread = f"{row.spread:.3%}" if row.repeatable else f"[bold red]{row.spread:.3%}[/bold red]"
        table.add_row(
            row.artifact, *_cells(row.mean), "" if ratio is None else f"{ratio:.2f}×", spread
        )
    if record.call_overhead is not None:
        table.add_row("(empty ONNX model)", *_cells(record.call_overhead), "", "")
    console.print(table)
    console.print(
        "dot: SDOT, UDOT. widen: SMLAL, SMULL and unsigned. / FP32: all, INT8 by FP32. spread: of "
        "two fresh processes",
        soft_wrap=True,
    )
    if any(row.runtime == "executorch" for row in record.artifacts):
        console.print(
            "ExecuTorch is called from C++, the other runtimes from Python", soft_wrap=True
        )
    for line in skipped_lines(record.skipped):
        console.print(line, markup=False, soft_wrap=True)
    console.print(
        f"{record.note}; the time that an emulator takes is no device's time", soft_wrap=True
    )
    console.print(f"record: {path}", markup=False, soft_wrap=True)


def _cells(counts: Instructions) -> list[str]:
    return [
        f"{counts.all / 1e3:,.1f}",
        *(f"{getattr(counts, name) / 1e3:,.0f}" for name in _CLASSES),
    ]
