from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from records import attack
from report.load import load_run
from report.wording import lede, sentence, split_verdicts
from tests.report.sample_run import INT8, Sample, attack_record, write_sample_run


def sentence_of(folder: Path, sample: Sample) -> tuple[str, str]:
    """Return the badge and the sentence of the first INT8 artifact."""
    (records,) = load_run(write_sample_run(folder, sample)).splits
    line = split_verdicts(records).lines[0]
    return line.word, line.sentence.replace("\u00a0", " ")


def test_denied_says_what_the_adaptive_attacker_gets_and_the_margin(tmp_path: Path) -> None:
    word, sentence = sentence_of(tmp_path, Sample())
    assert word == "DENIED"
    assert sentence == (
        "An attacker who retrains on the artifact's own outputs rebuilds pictures 0.10 dB worse "
        "than from FP32 features (at most 0.21 dB at one-sided 95 % confidence); the margin fixed "
        "beforehand was 3.00 dB."
    )


def test_artifacts_with_the_same_figures_share_a_line(tmp_path: Path) -> None:
    (records,) = load_run(write_sample_run(tmp_path)).splits
    (line,) = split_verdicts(records).lines
    assert line.artifacts == INT8
    assert line.figures.replace("\u00a0", " ") == (
        "recon_psnr_db: FP32 features 19.93 dB, A0 16.20 dB, A1 19.83 dB, mean image 12.20 dB"
    )


def test_denied_when_the_artifact_leaks_more_than_fp32(tmp_path: Path) -> None:
    sample = Sample(advantage_db=(-0.3, -0.4, -0.2))
    _, sentence = sentence_of(tmp_path, sample)
    assert "rebuilds pictures 0.30 dB better than from FP32 features" in sentence
    assert "−0.20 dB as the upper bound" in sentence
    assert "at most" not in sentence


def test_holds_names_the_lower_bound(tmp_path: Path) -> None:
    word, sentence = sentence_of(tmp_path, Sample(verdict="HOLDS", advantage_db=(4.1, 3.8, 4.4)))
    assert word == "HOLDS"
    assert sentence == (
        "Even an attacker who retrains on the artifact's own outputs rebuilds pictures 4.10 dB "
        "worse than from FP32 features (at least 3.80 dB at one-sided 95 % confidence); the margin "
        "fixed beforehand was 3.00 dB."
    )


def test_inconclusive_says_that_the_margin_lies_between_the_bounds(tmp_path: Path) -> None:
    sample = Sample(verdict="INCONCLUSIVE", advantage_db=(3.0, 2.7, 3.3))
    word, sentence = sentence_of(tmp_path, sample)
    assert word == "INCONCLUSIVE"
    assert "between 2.70 dB and 3.30 dB at one-sided 95 % confidence" in sentence
    assert sentence.endswith("3.00 dB and lies inside that range.")


def test_inconclusive_names_the_control_that_failed(tmp_path: Path) -> None:
    sample = Sample(verdict="INCONCLUSIVE", failed_gate=True)
    _, sentence = sentence_of(tmp_path, sample)
    assert sentence.startswith("A control failed (ceiling: 31.20 dB, required > 40.00 dB)")
    assert "no verdict may be given" in sentence


def test_inconclusive_for_another_reason_gives_the_records_reason(tmp_path: Path) -> None:
    _, sentence = sentence_of(tmp_path, Sample(verdict="INCONCLUSIVE"))
    assert sentence.endswith("3.00 dB. The bounds against the margin.")


def test_the_static_attacker_is_named_when_it_is_the_strongest(tmp_path: Path) -> None:
    _, sentence = sentence_of(tmp_path, Sample(strongest="A0"))
    assert sentence.startswith("An attacker who reuses a decoder trained on FP32 features")


def test_a_margin_that_was_not_sealed_is_not_called_fixed_beforehand(tmp_path: Path) -> None:
    _, sentence = sentence_of(tmp_path, Sample(pre_registered=False))
    assert "was not fixed beforehand" in sentence


def test_a_verdict_from_the_static_attacker_alone_is_marked(tmp_path: Path) -> None:
    sample = Sample(levels=("A0",), strongest="A0", note="The FP32 edge itself leaks little.")
    (records,) = load_run(write_sample_run(tmp_path, sample)).splits
    notes = split_verdicts(records).notes
    assert notes[0] == "The FP32 edge itself leaks little."
    assert "A1 was not run" in notes[1]


@pytest.mark.parametrize(
    ("verdict", "answer"),
    [
        ("DENIED", "No: of 8 INT8 artifacts, 8 DENIED."),
        ("HOLDS", "Yes, against the attackers tried: of 8 INT8 artifacts, 8 HOLDS."),
        ("INCONCLUSIVE", "Undecided: of 8 INT8 artifacts, 8 INCONCLUSIVE."),
    ],
)
def test_the_lede_answers_first(tmp_path: Path, verdict: attack.Verdict, answer: str) -> None:
    sample = Sample(splits=("features.3", "avgpool"), verdict=verdict)
    assert lede(load_run(write_sample_run(tmp_path, sample))).endswith(answer)


def test_the_lede_of_mixed_verdicts(tmp_path: Path) -> None:
    write_sample_run(tmp_path, Sample(splits=("one", "two"), leave_out=frozenset({"train"})))
    (tmp_path / "two" / "attack" / "attack.json").unlink()
    write_sample_run(tmp_path / "other", Sample(splits=("two",), verdict="HOLDS"))
    source = tmp_path / "other" / "two" / "attack" / "attack.json"
    source.rename(tmp_path / "two" / "attack" / "attack.json")
    text = lede(load_run(tmp_path))
    assert text.endswith("It depends on the artifact: of 8 INT8 artifacts, 4 DENIED, 4 HOLDS.")


def test_without_an_attack_nothing_is_answered(tmp_path: Path) -> None:
    run = load_run(write_sample_run(tmp_path, Sample(leave_out=frozenset({"attack"}))))
    assert "Not known" in lede(run)
    assert split_verdicts(run.splits[0]).lines == ()


def test_the_drift_of_another_artifact_does_not_void_a_verdict() -> None:
    sample = Sample(verdict="INCONCLUSIVE", advantage_db=(3.0, 2.7, 3.3))
    record = attack_record("features.3", sample, {})
    drifted = msgspec.structs.replace(record.drift[0], measured=0.4, passed=False)
    record = msgspec.structs.replace(record, drift=(drifted,))
    by_name = {v.artifact: sentence(record, v) for v in record.verdicts}
    assert "A control failed (drift A1 of edge_int8_onnx" in by_name["edge_int8_onnx"]
    assert "A control failed" not in by_name["edge_int8_lite"]
