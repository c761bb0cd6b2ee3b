"""A run folder with records of plausible figures, written with the record types themselves."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from records import attack, bench, codec, parity, training
from records.hashing import sha256_bytes
from records.machine import MachineRecord, MachineState
from records.manifest import (
    Artifact,
    DataRecord,
    Manifest,
    Preprocessing,
    Qparams,
    SetRecord,
    TensorSpec,
    WireTensor,
)
from records.recipe import (
    AttackRecipe,
    BenchRecipe,
    CheckRecipe,
    ExportRecipe,
    ModelRecipe,
    Recipe,
)

Format = Literal["torchscript-lite", "onnx"]
Precision = Literal["fp32", "int8"]
End = Literal["float", "wire"]

VERSIONS = {"torch": "2.14.1", "onnxruntime": "1.32.0"}
#: name, file, format, precision, boundary, file bytes, weight bytes
EDGES: tuple[tuple[str, str, Format, Precision, End, int, int], ...] = (
    ("edge_fp32_lite", "edge_fp32.ptl", "torchscript-lite", "fp32", "float", 124_880, 38_912),
    ("edge_int8_lite", "edge_int8.ptl", "torchscript-lite", "int8", "float", 101_512, 12_344),
    (
        "edge_int8_wire_lite",
        "edge_int8_wire.ptl",
        "torchscript-lite",
        "int8",
        "wire",
        99_100,
        12_344,
    ),
    ("edge_fp32_onnx", "edge_fp32.onnx", "onnx", "fp32", "float", 44_120, 38_912),
    ("edge_int8_onnx", "edge_int8.onnx", "onnx", "int8", "float", 31_700, 10_100),
    ("edge_int8_wire_onnx", "edge_int8_wire.onnx", "onnx", "int8", "wire", 31_500, 10_100),
)
INT8 = tuple(e[0] for e in EDGES if e[3] == "int8")


def digest(name: str) -> str:
    """Return a hash that is no file's: SHA-256 of a name."""
    return sha256_bytes(name.encode())


@dataclass(frozen=True)
class Sample:
    """What a sample run shall hold; the defaults are a complete run with one split, DENIED."""

    splits: tuple[str, ...] = ("features.3",)
    name: str = "sample"
    classes: tuple[str, ...] = ("astronaut", "cat", "coffee", "rocket")
    leave_out: frozenset[str] = frozenset()
    verdict: attack.Verdict = "DENIED"
    advantage_db: tuple[float, float, float] = (0.10, 0.02, 0.21)
    strongest: attack.Level = "A1"
    levels: tuple[attack.Level, ...] = ("A0", "A1")
    pre_registered: bool = True
    failed_gate: bool = False
    note: str | None = None
    valid_bench: bool = True
    speed: bench.SpeedVerdict = "no speed-up shown"
    drop_points: tuple[float, float, float] = (1.9, 0.8, 3.0)
    gate_passed: bool = True
    top1: float = 0.558
    float_nodes: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ("study.png", "worst.png")
    seeds: tuple[int, ...] = field(default=(0,))


def write_sample_run(folder: Path, sample: Sample | None = None) -> Path:
    """Write the records and pictures of a run and return its folder.

    ``leave_out`` names the records that are not written: train, bundle, check, bench, attack.
    """
    sample = sample or Sample()
    if "train" not in sample.leave_out:
        codec.write(folder / "train" / "training.json", training_record(sample))
    for split in sample.splits:
        _write_split(folder / split, split, sample)
    return folder


def _write_split(folder: Path, split: str, sample: Sample) -> None:
    if "bundle" not in sample.leave_out:
        codec.write(folder / "bundle" / "manifest.json", manifest(split, sample))
    if "check" not in sample.leave_out:
        codec.write(folder / "check.json", check_record(split, sample))
    if "bench" not in sample.leave_out:
        codec.write(folder / "bench.json", bench_record(split, sample))
    if "attack" not in sample.leave_out:
        pictures = {name: png(seed) for seed, name in enumerate(sample.pictures)}
        for name, data in pictures.items():
            (folder / "attack").mkdir(parents=True, exist_ok=True)
            (folder / "attack" / name).write_bytes(data)
        codec.write(folder / "attack" / "attack.json", attack_record(split, sample, pictures))


def png(seed: int) -> bytes:
    """Return a small PNG of coloured tiles, 4 rows by 8 columns of 32 × 32 pixels."""
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 256, (4, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.kron(tiles, np.ones((32, 32, 1), dtype=np.uint8))).save(buffer, "PNG")
    return buffer.getvalue()


def recipe(sample: Sample) -> Recipe:
    """Return the sample's recipe."""
    return Recipe(
        name=sample.name,
        model=ModelRecipe(image_size=64),
        export=ExportRecipe(splits=sample.splits),
        bench=BenchRecipe(threads=(1, 2)),
    )


def data_record(sample: Sample) -> DataRecord:
    """Return the sample's data record."""
    return DataRecord(
        source="photos",
        native_size=32,
        classes=sample.classes,
        train=SetRecord(count=8000, sha256=digest("train")),
        calibration=SetRecord(count=512, sha256=digest("calibration")),
        attacker=SetRecord(count=4000, sha256=digest("attacker")),
        victim=SetRecord(count=2000, sha256=digest("victim")),
        attacker_pool="held-out",
        dropped_duplicates=0,
    )


def training_record(sample: Sample) -> training.TrainingRecord:
    """Return a training of three epochs."""
    settings = recipe(sample)
    return training.TrainingRecord(
        data_recipe=settings.data,
        model=settings.model,
        train=settings.train,
        data=data_record(sample),
        initial_sha256=None,
        checkpoint_file="model.safetensors",
        checkpoint_sha256=digest("model"),
        parameters=1_528_106,
        epochs=tuple(
            training.EpochRecord(epoch=i, loss=2.0 / (i + 1), learning_rate=1e-3, seconds=7.5)
            for i in range(3)
        ),
        victim_accuracy=training.Accuracy(
            correct=round(2000 * sample.top1),
            count=2000,
            top1=sample.top1,
            low=sample.top1 - 0.022,
            high=sample.top1 + 0.022,
            confidence=0.95,
        ),
        device="cpu",
        threads=2,
        versions=VERSIONS,
        seconds=143.2,
    )


def manifest(split: str, sample: Sample) -> Manifest:
    """Return the manifest of one split's bundle."""
    settings = recipe(sample)
    image = TensorSpec(name="input", shape=(3, 64, 64), dtype="float32")
    boundary = TensorSpec(name="boundary", shape=(24, 8, 8), dtype="float32")
    wire = TensorSpec(name="boundary", shape=(24, 8, 8), dtype="uint8")
    logits = TensorSpec(name="logits", shape=(len(sample.classes),), dtype="float32")
    edges = [
        Artifact(
            name=name,
            file=file,
            format=kind,
            role="edge",
            precision=precision,
            boundary=end,
            sha256=digest(split + name),
            size=size,
            weight_bytes=weights,
            input=image,
            output=wire if end == "wire" else boundary,
            opset=17 if kind == "onnx" else None,
            bytecode_version=8 if kind == "torchscript-lite" else None,
        )
        for name, file, kind, precision, end, size, weights in EDGES
    ]
    server = Artifact(
        name="server_fp32_onnx",
        file="server_fp32.onnx",
        format="onnx",
        role="server",
        precision="fp32",
        boundary="logits",
        sha256=digest(split + "server"),
        size=6_120_000,
        weight_bytes=6_073_512,
        input=boundary,
        output=logits,
        opset=17,
    )
    return Manifest(
        bundle_id=digest(split),
        split=split,
        recipe=settings,
        checkpoint_sha256=digest("model"),
        data=data_record(sample),
        preprocessing=Preprocessing(
            native_size=32, image_size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
        ),
        input=image,
        boundary=boundary,
        output=logits,
        wire=WireTensor(shape=(24, 8, 8), scale=0.0731, zero_point=128),
        artifacts=(*edges, server),
        qparams=(Qparams(tensor="features_3", scale=0.0731, zero_point=128),),
        float_nodes=sample.float_nodes,
        engine="qnnpack",
        versions=VERSIONS,
    )


def check_record(split: str, sample: Sample) -> parity.CheckRecord:
    """Return a check: the lite artifacts identical, the ONNX ones within 1 LSB."""
    gate = parity.Gate(
        name="onnx_share_within_1_lsb",
        artifact="edge_int8_onnx",
        mode="optimizations-off",
        bound="at least",
        limit=0.99,
        measured=0.9996 if sample.gate_passed else 0.9512,
        passed=sample.gate_passed,
    )
    return parity.CheckRecord(
        bundle_id=digest(split),
        split=split,
        recipe=CheckRecipe(),
        victims=parity.VictimRecord(
            source="photos", count=2000, sha256=digest("victim"), is_manifest_set=True
        ),
        ort=parity.OrtMode(
            mode="precise", has_vnni=False, reason="This CPU has no VNNI: 16-bit sums saturate."
        ),
        threads=1,
        versions=VERSIONS,
        artifacts=tuple(_artifact_checks(sample)),
        fp32_parity=(
            parity.FloatParity(
                artifact="edge_fp32_onnx",
                reference="edge_fp32_lite",
                mode="precise",
                parity_sqnr_db=118.3,
                max_abs=1.2e-5,
            ),
        ),
        wire_equality=(
            parity.WireEquality(
                wire="edge_int8_wire_lite",
                float_boundary="edge_int8_lite",
                mode="qnnpack",
                differing=0,
                first_image=None,
            ),
        ),
        fusion=(
            parity.Fusion(artifact="edge_int8_onnx", convolutions=11, fused=11, left_in_float=()),
        ),
        gates=(gate,),
        passed=sample.gate_passed,
        started_at="2025-01-01T00:00:00Z",
        seconds=12.5,
    )


def _artifact_checks(sample: Sample) -> list[parity.ArtifactCheck]:
    estimate, low, high = sample.drop_points
    drop = parity.Interval(estimate=estimate, low=low, high=high, confidence=0.95)
    checks = []
    for name, _, kind, precision, end, _, _ in EDGES:
        lite = kind == "torchscript-lite"
        int8 = precision == "int8"
        modes: tuple[parity.Mode, ...] = ("qnnpack",) if lite else ("precise", "optimizations-off")
        for mode in modes if int8 else modes[:1]:
            checks.append(
                parity.ArtifactCheck(
                    artifact=name,
                    runtime="lite" if lite else "ort",
                    mode=mode,
                    precision=precision,
                    boundary=end,
                    reference=False,
                    gated=True,
                    accuracy=parity.Accuracy(
                        top1=0.539 if int8 else sample.top1,
                        agreement=0.996 if int8 else None,
                        disagreeing=(),
                        drop_points=drop if int8 else None,
                    ),
                    lsb=_lsb(identical=lite) if int8 else None,
                )
            )
    return checks


def _lsb(*, identical: bool) -> parity.LsbDifference:
    histogram = (3_072_000,) if identical else (3_030_112, 41_000, 888)
    values = sum(histogram)
    return parity.LsbDifference(
        values=values,
        max_lsb=len(histogram) - 1,
        histogram=histogram,
        share_identical=histogram[0] / values,
        share_within_1_lsb=sum(histogram[:2]) / values,
        parity_sqnr_db=None if identical else 43.17,
        off_grid=0,
        worst=(),
    )


def machine_record() -> MachineRecord:
    """Return a small x86 machine without VNNI."""
    return MachineRecord(
        cpu_model="Intel(R) Xeon(R) CPU @ 2.20GHz",
        board=None,
        arch="x86_64",
        isa=("avx", "avx2", "fma"),
        vnni=False,
        ort_mode="precise",
        cores=2,
        cores_online=2,
        max_frequency_mhz=None,
        memory_bytes=8_300_000_000,
        governors=(),
        virtual="kvm",
        emulated=None,
        os="Debian GNU/Linux 12",
        kernel="6.1.0",
        python="3.11.9",
        versions=VERSIONS,
    )


def bench_record(split: str, sample: Sample) -> bench.BenchRecord:
    """Return a bench on one and two threads."""
    return bench.BenchRecord(
        bundle_id=digest(split),
        split=split,
        recipe=recipe(sample).bench,
        machine=machine_record(),
        sizes=tuple(
            bench.ArtifactSize(
                artifact=name,
                role="edge",
                runtime=_runtime(kind),
                precision=precision,
                boundary=end,
                weight_bytes=weights,
                file_bytes=size,
                sha256=digest(split + name),
            )
            for name, _, kind, precision, end, size, weights in EDGES
        ),
        size_ratios=(
            bench.SizeRatio(
                runtime="lite",
                fp32="edge_fp32_lite",
                int8="edge_int8_lite",
                weight_ratio=3.15,
                file_ratio=1.23,
            ),
        ),
        wire=_wire_size(),
        startup=tuple(_startup(name, kind) for name, _, kind, *_ in EDGES),
        latency=tuple(_latency(e, threads) for threads in (1, 2) for e in EDGES),
        speedups=tuple(_speedup(name, threads, sample) for threads in (1, 2) for name in INT8),
        runs=tuple(_measured_run(threads, sample.valid_bench) for threads in (1, 2)),
        skipped=(bench.Skipped(artifact=None, threads=4, reason="only 2 cores are usable"),),
        notes=("FP32 .ptl is not optimized for mobile: torch 2.14 refuses to.",),
        timing=bench.BenchTiming(
            started_at="2025-01-01T00:00:00Z",
            ended_at="2025-01-01T00:01:00Z",
            seconds=60.0,
            samples=None,
        ),
    )


def _runtime(kind: Format) -> parity.RuntimeName:
    return "ort" if kind == "onnx" else "lite"


def _wire_size() -> bench.WireSize:
    compressed = bench.CompressedSize(
        method="zlib level 6", images=256, mean=1201.5, p5=980, p50=1210, p95=1390
    )
    return bench.WireSize(
        shape=(24, 8, 8),
        raw_bytes=1536,
        packed_bytes=1536,
        float_bytes=6144,
        image_bytes=3072,
        artifact="edge_int8_wire_onnx",
        compressed=compressed,
        image_compressed=None,
        not_measured=None,
    )


def _startup(name: str, kind: Format) -> bench.Startup:
    return bench.Startup(
        artifact=name,
        runtime=_runtime(kind),
        threads=1,
        batch_size=1,
        timing=bench.StartupTiming(
            load_ms=4.2,
            first_inference_ms=1.9,
            baseline_bytes=180_000_000,
            peak_bytes=184_500_000,
            added_bytes=4_500_000,
            baseline_reset=True,
        ),
    )


def _latency(
    edge: tuple[str, str, Format, Precision, End, int, int], threads: int
) -> bench.Latency:
    name, _, kind, precision, end, _, _ = edge
    p50 = {"edge_fp32_lite": 1.38, "edge_fp32_onnx": 0.12}.get(name, 0.17) / threads**0.5
    return bench.Latency(
        artifact=name,
        runtime=_runtime(kind),
        precision=precision,
        mode="precise" if kind == "onnx" else "qnnpack",
        boundary=end,
        threads=threads,
        batch_size=1,
        timing=bench.LatencyTiming(
            samples=5000,
            blocks=40,
            mean_ms=p50 * 1.05,
            min_ms=p50 * 0.9,
            p50_ms=p50,
            p90_ms=p50 * 1.2,
            p95_ms=p50 * 1.3,
            p99_ms=p50 * 1.7,
            max_ms=p50 * 4,
            cpu_per_wall=float(threads),
        ),
    )


def _speedup(name: str, threads: int, sample: Sample) -> bench.SpeedUp:
    valid = sample.valid_bench
    return bench.SpeedUp(
        fp32="edge_fp32_lite" if name.endswith("lite") else "edge_fp32_onnx",
        int8=name,
        same_runtime=True,
        threads=threads,
        batch_size=1,
        confidence=0.95,
        smallest_effect=0.05,
        timing=bench.SpeedUpTiming(
            ratio=1.02 if valid else None,
            low=0.98 if valid else None,
            high=1.06 if valid else None,
            verdict=sample.speed if valid else "not given",
        ),
        note="INT8 gains nothing on a CPU without VNNI." if name.endswith("onnx") else None,
    )


def _measured_run(threads: int, valid: bool) -> bench.MeasuredRun:
    state = MachineState(
        load_average=(0.1, 0.1, 0.1),
        temperatures_c={},
        frequencies_mhz=(),
        throttled_bits=None,
        throttle_count=None,
    )
    return bench.MeasuredRun(
        threads=threads,
        batch_size=1,
        seed=0,
        input="one victim image",
        artifacts=tuple(e[0] for e in EDGES),
        timing=bench.RunTiming(
            valid=valid,
            criteria=(
                bench.Criterion(
                    name="spread of block medians",
                    value=0.04 if valid else 0.41,
                    limit=0.2,
                    met=valid,
                    where="edge_int8_lite",
                ),
                bench.Criterion(name="temperature (°C)", value=None, limit=80.0, met=True),
            ),
            started_at="2025-01-01T00:00:00Z",
            ended_at="2025-01-01T00:00:30Z",
            seconds=30.0,
            before=state,
            after=state,
        ),
    )


def reconstruction(mean_db: float, floor_db: float = 12.2) -> attack.Reconstruction:
    """Return a reconstruction whose images spread by 3 dB around ``mean_db``."""
    edges = np.arange(0, 60.5, 0.5)
    density = np.exp(-(((edges - mean_db) / 3) ** 2) / 2)
    counts = tuple(int(c) for c in np.rint(2000 * density / density.sum()))
    return attack.Reconstruction(
        recon_psnr_db=attack.Spread(
            mean=mean_db, p5=mean_db - 4.9, p50=mean_db - 0.1, p95=mean_db + 5.0
        ),
        recon_psnr_pooled_db=mean_db - 0.7,
        recon_ssim=attack.Spread(mean=0.61, p5=0.3, p50=0.62, p95=0.9),
        leak_db=mean_db - floor_db,
        histogram=attack.Histogram(first_db=0.0, bin_db=0.5, counts=counts),
    )


def candidate(start: attack.Start) -> attack.Candidate:
    """Return one decoder that stopped by patience."""
    return attack.Candidate(
        start=start,
        capacity="small",
        parameters=412_003,
        epochs=12,
        best_epoch=9,
        best_val_loss=0.01023,
        val_loss=tuple(0.03 / (i + 1) for i in range(12)),
        stopped="patience",
        seconds=31.4,
    )


def _levels(sample: Sample, means: dict[attack.Level, float]) -> tuple[attack.LevelResult, ...]:
    means = {"A2": 21.0, "A3": 15.5, "A4": 15.1, **means}
    return tuple(
        attack.LevelResult(
            level=level,
            seed=seed,
            queries=queries,
            victims=64 if level == "A2" else 2000,
            chosen=0,
            candidates=(candidate("scratch"), candidate("fine-tuned")),
            result=reconstruction(means[level] - (1.0 if queries == 100 else 0.0)),
            recovery=attack.Recovery(
                probes=1000, gallery=1000, reidentified=0.93, label_top1=0.22, label_agreement=0.31
            ),
        )
        for level in sample.levels
        for queries in ((100, 1000) if level == "A3" else (None,))
        for seed in sample.seeds
    )


def attack_record(split: str, sample: Sample, pictures: dict[str, bytes]) -> attack.AttackRecord:
    """Return an attack whose INT8 artifacts all have the sample's verdict."""
    advantage, lower, upper = sample.advantage_db
    full = 19.93
    strongest_db = full - advantage
    gates = (
        attack.Gate(
            name="ceiling",
            measured=31.2 if sample.failed_gate else 47.31,
            relation=">",
            limit=40.0,
            passed=not sample.failed_gate,
            meaning="The attack code can rebuild a picture that is sent whole.",
        ),
    )
    return attack.AttackRecord(
        bundle_id=digest(split),
        split=split,
        boundary_shape=(24, 8, 8),
        wire_bytes_per_image=1536,
        recipe=AttackRecipe(levels=sample.levels),
        pre_registered=sample.pre_registered,
        verdict=sample.verdict,
        note=sample.note,
        margin_db=3.0,
        confidence=0.95,
        resamples=2000,
        baseline="edge_fp32_onnx",
        data=attack.AttackData(
            source="photos",
            native_size=32,
            attacker_pool="held-out",
            attacker=SetRecord(count=4000, sha256=digest("attacker")),
            victim=SetRecord(count=2000, sha256=digest("victim")),
            validation_images=400,
            ood_source="photos" if "A4" in sample.levels else None,
            ood=SetRecord(count=3500, sha256=digest("ood")) if "A4" in sample.levels else None,
            left_out_budgets=(50_000,) if "A3" in sample.levels else (),
        ),
        decoder="convolutional, one transposed convolution per doubling",
        controls=attack.Controls(
            floor=reconstruction(12.2),
            mean_colour=reconstruction(14.4),
            ceiling=reconstruction(47.31),
            ceiling_candidates=(candidate("scratch"),),
            logits={"edge_fp32_onnx": reconstruction(13.1)},
            bits16=reconstruction(full),
            original_top1=0.61,
            gates=gates,
        ),
        drift=(
            attack.Gate(
                name="drift A1",
                artifact="edge_int8_onnx",
                measured=0.03,
                relation="≤",
                limit=0.1,
                passed=True,
                meaning="The export leaks what eager INT8 leaks.",
            ),
        ),
        artifacts=(
            _artifact_attack("edge_fp32_onnx", "fp32", sample, {"A0": full, "A1": full}, None),
            *(
                _artifact_attack(
                    name,
                    "int8",
                    sample,
                    {"A0": 16.2 if sample.strongest == "A1" else strongest_db, "A1": strongest_db},
                    "edge_int8_lite" if name == "edge_int8_wire_lite" else None,
                )
                for name in INT8
            ),
        ),
        verdicts=tuple(
            attack.ArtifactVerdict(
                artifact=name,
                verdict=sample.verdict,
                advantage_db=advantage,
                lower_db=lower,
                upper_db=upper,
                reason="the bounds against the margin",
            )
            for name in INT8
        ),
        pictures=tuple(
            attack.Picture(
                file=name,
                title=f"Rows: original, FP32, INT8 by A0, INT8 by A1 ({name})",
                sha256=sha256_bytes(data),
                victims=(3, 14, 159),
            )
            for name, data in pictures.items()
        ),
        passed=not sample.failed_gate,
        threads=1,
        versions=VERSIONS,
        seconds=240.0,
    )


def _artifact_attack(
    name: str,
    precision: Precision,
    sample: Sample,
    means: dict[attack.Level, float],
    same_as: str | None,
) -> attack.ArtifactAttack:
    best = max(means.values())
    return attack.ArtifactAttack(
        name=name,
        precision=precision,
        runtime="lite" if name.endswith("lite") else "ort",
        runtime_mode="qnnpack" if name.endswith("lite") else "precise",
        boundary="wire" if "wire" in name else "float",
        features_sha256=digest(same_as or name),
        same_outputs_as=same_as,
        levels=_levels(sample, means),
        strongest=sample.strongest,
        max_leak_db=best - 12.2,
        max_recon_psnr_db=best,
        per_image_db=tuple(round(best + d, 2) for d in (-1.0, 0.0, 1.0)),
        worst=(attack.WorstImage(victim=14, recon_psnr_db=31.2),),
    )
