"""What the verbs print of a record is whole on a terminal of 80 columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from commands import attack, bench, check, export, inspect
from records.cuts import Cut, CutList
from records.parity import FloatParity, HostDifference
from tests.report.sample_run import (
    Sample,
    attack_record,
    bench_record,
    check_record,
    manifest,
    png,
)
from tests.report.test_target_section import TARGET

LONGEST = "edge_int8_wire_tflite"
SAMPLE = Sample(levels=("A0", "A1", "A2", "A3", "A4"), seeds=(0, 1), strongest="A2")


def _longest(rows: tuple[Any, ...], key: str) -> tuple[Any, ...]:
    """Return the rows, the last of them under the longest name that an artifact has."""
    return (*rows[:-1], replace(rows[-1], **{key: LONGEST}))


@pytest.mark.parametrize("width", [80, 120])
def test_attack(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    record = attack_record("features.3", SAMPLE, {"a.png": png(0)})
    gate = record.controls.gates[0]
    long = replace(gate, name="boundary_leaks_no_less_than_logits", artifact=LONGEST)
    record = replace(
        record,
        artifacts=_longest(record.artifacts, "name"),
        verdicts=_longest(record.verdicts, "artifact"),
        controls=replace(record.controls, gates=(*record.controls.gates, long)),
    )
    attack._print_record(record, Path("out"))
    shown = _whole(capsys.readouterr().out, width)
    assert shown.count(LONGEST) >= 3
    for artifact in record.artifacts:
        assert artifact.name in shown
        for level in artifact.levels:
            if artifact.same_outputs_as is None:
                psnr = level.result.recon_psnr_db
                assert f" {psnr.mean:.2f} {psnr.p5:.2f} " in " ".join(shown.split())


@pytest.mark.parametrize("width", [80, 120])
def test_check(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    record = check_record("features.3", Sample(drop_points=(-12.3, -14.1, -10.2)))
    last = record.artifacts[-1]
    assert last.lsb is not None
    host = HostDifference(
        artifact=LONGEST,
        mode="optimizations-off",
        host_mode="optimizations-off",
        from_host=replace(last.lsb, max_lsb=255),
        host_from_eager=replace(last.lsb, max_lsb=255),
    )
    apart = FloatParity(
        artifact="edge_fp32_tflite",
        reference="edge_fp32_tflite (host)",
        mode="xnnpack",
        parity_sqnr_db=118.3,
        max_abs=1.234e-07,
    )
    long = replace(record.gates[0], name="target_share_within_1_lsb", artifact=LONGEST)
    record = replace(
        record,
        artifacts=_longest(record.artifacts, "artifact"),
        host=(host,),
        host_fp32=(apart,),
        gates=(*record.gates, long),
    )
    check._print_artifacts(record, (console := Console()))
    check._print_host(replace(record, target=TARGET), console)
    check._print_agreement(record, console)
    check._print_gates(record, console)
    shown = _whole(capsys.readouterr().out, width)
    assert shown.count(LONGEST) == 3
    for word in ("-12.3", "[-14.1,", "-10.2]"):
        assert f" {word}" in shown
    assert "255" in shown


@pytest.mark.parametrize("width", [80, 120])
def test_export(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    record = manifest("features.3", Sample())
    export._print_table(replace(record, artifacts=_longest(record.artifacts, "name")), Path("out"))
    shown = _whole(capsys.readouterr().out, width)
    assert LONGEST in shown
    assert "torchscript-lite" in shown
    assert "6,120,000" in shown


@pytest.mark.parametrize("width", [80, 120])
def test_bench(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    record = bench_record("features.3", Sample())
    record = replace(
        record,
        latency=_longest(record.latency, "artifact"),
        speedups=_longest(record.speedups, "int8"),
        startup=_longest(record.startup, "artifact"),
    )
    bench.print_bench(record, Path("bench.json"))
    shown = _whole(capsys.readouterr().out, width)
    assert shown.count(LONGEST) == 3
    assert "no speed-up shown" in shown


@pytest.mark.parametrize("width", [80, 120])
def test_inspect(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    # MobileNetV2's widest row, on a terminal: a pipe gets 120 columns.
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    cut = Cut(
        name="features.17.conv.0.0",
        edge_parameters=2_223_872,
        edge_macs=300_774_272,
        edge_share_macs=1.0,
        boundary_shape=(96, 112, 112),
        boundary_bytes_fp32=4_816_896,
        boundary_bytes_uint8=1_204_224,
        whole_network=False,
    )
    inspect._print_table(CutList(model="mobilenet_v2", input_shape=(3, 224, 224), cuts=(cut,)))
    shown = _whole(capsys.readouterr().out, width)
    for figure in ("features.17.conv.0.0", "300,774,272", "96×112×112", "4,816,896", "1,204,224"):
        assert figure in shown


def _whole(shown: str, width: int) -> str:
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    return shown
