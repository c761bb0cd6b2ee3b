"""Records of emulated targets in the report: tables, and records that do not belong there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from records import codec
from records.errors import RecordError
from records.instructions import (
    NOTE,
    ArtifactInstructions,
    InstructionRatio,
    InstructionRecord,
    Instructions,
)
from records.parity import HostDifference
from records.target import SkippedArtifact, TargetRecord
from report.load import load_run
from report.target_section import target_sections
from report.write import write_report
from tests.report.sample_run import (
    Sample,
    attack_record,
    check_record,
    digest,
    manifest,
    write_sample_run,
)

SPLIT = "features.3"
TARGET = TargetRecord(
    name="cortex-a72",
    kind="emulated",
    cpu="cortex-a72, as in a Raspberry Pi 4",
    machine="aarch64",
    features=("asimd",),
    emulator="qemu-aarch64 version 7.2",
    versions={"onnxruntime": "1.32.0"},
    wheels={"numpy.whl": digest("numpy")},
    system={"libc6": "2.36"},
)
SKIPPED = (SkippedArtifact(artifact="edge_int8_lite", reason="torch is not on cortex-a72"),)


def counts(total: int) -> Instructions:
    return Instructions(all=total, simd_fp=900, dot=0, mmla=0, widening_multiply=70, fmla=5)


def instruction_record(*, passed: bool = True) -> InstructionRecord:
    return InstructionRecord(
        bundle_id=manifest(SPLIT, Sample()).bundle_id,
        split=SPLIT,
        target=TARGET,
        warmup=10,
        inferences=31,
        seed=0,
        spread_limit=0.001,
        artifacts=(
            ArtifactInstructions(
                artifact="edge_int8_onnx",
                runtime="ort",
                mode="default",
                precision="int8",
                boundary="float",
                runs=(counts(1_234_500), counts(1_234_500)),
                mean=counts(1_234_500),
                spread=0.0,
                repeatable=passed,
            ),
        ),
        ratios=(
            InstructionRatio(
                runtime="ort", fp32="edge_fp32_onnx", int8="edge_int8_onnx", ratio=0.64
            ),
        ),
        call_overhead=counts(47_000),
        skipped=SKIPPED,
        note=NOTE,
        passed=passed,
        started_at="2026-01-01T00:00:00+00:00",
        seconds=1.0,
    )


def write_targets(folder: Path, *, passed: bool = True) -> Path:
    """Write a sample run, and beside it what a target of it gave."""
    sample = Sample(splits=(SPLIT,))
    write_sample_run(folder, sample)
    check = check_record(SPLIT, sample)
    row = next(a for a in check.artifacts if a.lsb is not None and not a.reference)
    assert row.lsb is not None
    host = HostDifference(
        artifact=row.artifact,
        mode=row.mode,
        host_mode="precise",
        from_host=row.lsb,
        host_from_eager=row.lsb,
    )
    check = replace(check, target=TARGET, host=(host,), skipped=SKIPPED)
    codec.write(folder / SPLIT / "check-cortex-a72.json", check)
    codec.write(folder / SPLIT / "bench-cortex-a72.json", instruction_record(passed=passed))
    attack = replace(attack_record(SPLIT, sample, {}), target=TARGET)
    codec.write(folder / SPLIT / "attack-cortex-a72" / "attack.json", attack)
    return folder


def test_what_ran_on_a_target_has_a_section(tmp_path: Path) -> None:
    run = load_run(write_targets(tmp_path))
    assert [target.target for target in run.splits[0].targets] == ["cortex-a72"]
    write_report(tmp_path, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "Emulated ARM: the same files on the kernels that ship" in text
    assert "under qemu-aarch64 version 7.2; onnxruntime 1.32.0" in text
    assert "Skipped: edge_int8_lite (torch is not on cortex-a72)" in text
    assert "1,234.5" in text
    assert "0.64×" in text
    assert "(empty ONNX model)" in text
    assert "Instructions are not cycles" in text
    assert "Drift from eager" in text
    assert "DENIED" in text.partition("Emulated ARM")[2]


def test_an_attack_on_a_target_alone_is_not_said_to_be_none(tmp_path: Path) -> None:
    write_targets(tmp_path)
    shutil.rmtree(tmp_path / SPLIT / "attack")
    write_report(tmp_path, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "no attack was run on this host; what cortex-a72 sends was attacked" in text
    assert (
        "The attack was run on outputs of emulated ARM targets alone. cortex-a72: DENIED." in text
    )
    assert "The attack was not run" not in text


def test_counts_that_did_not_repeat_are_marked(tmp_path: Path) -> None:
    write_targets(tmp_path, passed=False)
    write_report(tmp_path, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "INVALID: two runs were more than 0.1% apart" in text


def test_a_run_without_targets_has_no_such_section(tmp_path: Path) -> None:
    write_sample_run(tmp_path)
    # Raw samples of a bench and evidence of a check lie there too, under names that begin alike.
    (tmp_path / SPLIT / "bench-samples.json").write_text("{}", encoding="utf-8")
    run = load_run(tmp_path)
    assert run.splits[0].targets == ()
    assert target_sections(run) == ()


def test_a_target_of_another_bundle_is_refused(tmp_path: Path) -> None:
    write_targets(tmp_path)
    other = replace(instruction_record(), bundle_id=digest("another"))
    codec.write(tmp_path / SPLIT / "bench-cortex-a72.json", other, replace=True)
    with pytest.raises(RecordError, match="different bundles"):
        load_run(tmp_path)
