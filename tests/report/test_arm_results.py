"""Figures of ARM targets, gathered from their records and quoted as tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from records import codec
from records.arm_comparison import ArmComparisonRecord, ExecutorchExport, PlainExport
from records.arm_results import ArmResults
from records.errors import InputError
from report.arm_results import arm_results, main
from report.arm_table import arm_markdown
from report.place_results import place_results
from tests.report.test_target_section import (
    SPLIT,
    TARGET,
    counts,
    instruction_record,
    write_targets,
)


def files(folder: Path) -> list[Path]:
    write_targets(folder)
    of = folder / SPLIT
    return [
        of / "bundle" / "manifest.json",
        of / "check-cortex-a72.json",
        of / "bench-cortex-a72.json",
        of / "attack-cortex-a72" / "attack.json",
    ]


def comparison() -> ArmComparisonRecord:
    record = instruction_record()
    ours = record.artifacts[0]
    plain = PlainExport(
        tool="quantize_static",
        activations="int8",
        sha256="ab" * 32,
        file_bytes=10,
        counted=replace(ours, mean=counts(2_469_000)),
        ratio=0.5,
        saves=True,
    )
    return ArmComparisonRecord(
        bundle_id=record.bundle_id,
        split=SPLIT,
        input_shape=(3, 64, 64),
        target=TARGET,
        versions={},
        calibration_images=10,
        calibration_sha256="cd" * 32,
        fp32=ours,
        ours=ours,
        plain=(plain,),
        least_saving=0.2,
        note="",
        passed=True,
        started_at="2026-01-01T00:00:00+00:00",
        seconds=1.0,
    )


def with_executorch(own: int, best: int) -> ArmComparisonRecord:
    """Return the comparison with ExecuTorch's own export and two INT8 edges beside it."""
    record = comparison()
    edges = (
        replace(record.ours, artifact="edge_int8_onnx", mean=counts(5_000_000)),
        replace(record.ours, artifact="edge_int8_tflite", mean=counts(best)),
    )
    export = ExecutorchExport(
        tool="XNNPACKQuantizer",
        sha256="ef" * 32,
        file_bytes=10,
        delegates=1,
        counted=replace(record.ours, artifact="executorch_own", mean=counts(own)),
        int8=edges,
        best="edge_int8_tflite",
        ratio=best / own,
        not_above=best <= own,
    )
    return replace(record, executorch=export)


def test_every_figure_is_of_a_record(tmp_path: Path) -> None:
    found = arm_results(files(tmp_path))
    (count,) = found.counts
    assert count.record == instruction_record()
    for row in found.parity:
        assert (row.cpu, row.split, row.victims) == ("cortex-a72", SPLIT, 2000)
    # One was compared with the host; the others do not run rightly there.
    beside, *others = sorted(found.parity, key=lambda row: row.as_host is None)
    alone = others[0]
    assert set(beside.host) == {"precise"}
    assert (alone.as_host, alone.host) == (None, {})
    assert f"| {alone.max_lsb} | – | – |" in arm_markdown(replace(found, parity=(alone,)))
    assert {one.cpu for one in found.attacks} == {"cortex-a72"}
    eager = replace(found.attacks[0], eager_db={"A0": found.attacks[0].db["A0"] - 0.05})
    assert "(+0.050)" in arm_markdown(replace(found, attacks=(eager,)))


def test_the_tables_quote_them(tmp_path: Path) -> None:
    found = replace(arm_results(files(tmp_path)), comparisons=(comparison(),))
    text = arm_markdown(found)
    assert "| `features.3` | 64 | `.onnx` | – | 1,234 | – |" in text
    assert "| cortex-a72 | 1,234 | 1,234 | 1.00× | 2,469 (int8) | 50.0 % |" in text
    assert "not cycles" in text
    for attack in (one for one in found.attacks if "_wire_" in one.artifact):
        assert f"| `{attack.artifact}` | {attack.db['A0']:.2f} (" in text
    assert arm_markdown(ArmResults(counts=(), parity=(), attacks=(), comparisons=())) == ""


@pytest.mark.parametrize(
    ("own", "best", "cells"),
    [
        (1_128_400, 1_003_600, "1,128 | 1,004 | 0.889× | **not above**"),
        (1_000_000, 1_100_000, "1,000 | 1,100 | 1.100× | **ABOVE**"),
    ],
)
def test_executorch_s_own_export_stands_beside_the_best_edge(
    own: int, best: int, cells: str
) -> None:
    both = (comparison(), with_executorch(own, best))
    text = arm_markdown(ArmResults(counts=(), parity=(), attacks=(), comparisons=both))
    row = f"| `features.3` | 64 | cortex-a72 | `edge_int8_tflite` | {cells} |"
    assert text.count(row) == text.count("edge_int8_tflite") == 1
    assert "at least 10 of the same images" in text


def test_the_file_is_placed_between_its_markers(tmp_path: Path) -> None:
    page, out = tmp_path / "page.md", tmp_path / "arm.json"
    main([str(out), *map(str, files(tmp_path))])
    page.write_text("<!-- arm:arm -->\n<!-- /arm:arm -->\n", encoding="utf-8")
    assert place_results(page, out)
    assert arm_markdown(codec.read(out, ArmResults)) in page.read_text(encoding="utf-8")


def test_what_is_measured_anew_replaces_only_itself(tmp_path: Path) -> None:
    out = tmp_path / "arm.json"
    records = files(tmp_path)
    paths = [str(path) for path in records]
    other = replace(comparison(), split="features.8")
    old = replace(arm_results(records), comparisons=(comparison(), other))
    stale = replace(old.counts[0].record, seconds=77.0)
    old = replace(old, counts=(replace(old.counts[0], record=stale),))
    codec.write(out, old, replace=True)
    main([str(out), str(out), *paths])
    found = codec.read(out, ArmResults)
    assert found.comparisons == (comparison(), other)
    assert [row.record for row in found.counts] == [instruction_record()]
    assert found.attacks == old.attacks
    # Without the file itself nothing of it is kept.
    main([str(out), *paths])
    assert codec.read(out, ArmResults).comparisons == ()


def test_what_has_no_arm_figures_is_refused(tmp_path: Path) -> None:
    manifest, check, bench, attack = files(tmp_path)
    with pytest.raises(InputError, match=r"manifest\.json of the bundle"):
        arm_results([bench])
    (tmp_path / "other.json").write_text('{"schema": "edgeveil.sweep/1"}', encoding="utf-8")
    with pytest.raises(InputError, match=r"edgeveil\.sweep"):
        arm_results([tmp_path / "other.json"])
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="no record"):
        arm_results([tmp_path / "broken.json"])
    for path in (tmp_path / SPLIT / "check.json", tmp_path / SPLIT / "attack" / "attack.json"):
        with pytest.raises(InputError, match="no target"):
            arm_results([manifest, path])
    assert arm_results([manifest, check, attack]).counts == ()
