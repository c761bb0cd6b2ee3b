"""Ranges: what each method leaves out, and that errors count where the tensor is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import prepare_fx
from torch.nn.functional import hardsigmoid, hardswish

from export.learned_range import LearnedRange
from export.observers import RangeObserver, Reader, observers_of, passing, place_observers
from records.recipe import ActivationObserver
from tests.export.edges import batch, split


def _watch(observer: RangeObserver, x: Tensor) -> RangeObserver:
    for part in x.chunk(4):
        observer(part)
    observer.count_now()
    for part in x.chunk(4):
        observer(part)
    return observer


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _error(observer: RangeObserver, x: Tensor, reader: Reader, ends: tuple[float, float]) -> float:
    """Return the squared error behind the reader, in numpy's float64."""
    scale = (ends[1] - ends[0]) / 255
    zero = round(-ends[0] / scale)
    q = np.clip(np.rint(x.double().numpy() / scale) + zero, 0, 255)
    real = torch.from_numpy((q - zero) * scale)
    return float((reader(real) - reader(x.double())).square().mean())


def test_percentile_leaves_out_the_outliers_that_min_max_keeps() -> None:
    x = _normal(400_000)
    x[0] = 100.0
    low, high = _watch(RangeObserver(method="min-max", dtype=torch.quint8), x).ends()
    assert (low, high) == (float(x.min()), 100.0)
    low, high = _watch(RangeObserver(method="percentile", dtype=torch.quint8), x).ends()
    assert -6.0 < low < -4.0
    assert 4.0 < high < 6.0


@pytest.mark.parametrize("reader", [hardswish, hardsigmoid])
def test_nothing_is_spent_on_what_the_reader_cannot_tell_apart(reader: Reader) -> None:
    x = 5 * _normal(100_000)
    low, high = _watch(RangeObserver("percentile", reader, dtype=torch.quint8), x).ends()
    assert low == pytest.approx(-3.0, abs=0.02)
    assert (high < 3.01) == (reader is hardsigmoid)


@pytest.mark.parametrize("reader", [hardswish, hardsigmoid, lambda x: x])
def test_mse_is_not_worse_than_any_other_range_that_was_tried(reader: Reader) -> None:
    x = 3 * _normal(60_000).pow(3)
    known = reader if reader in {hardswish, hardsigmoid} else RangeObserver().reader
    observer = _watch(RangeObserver("mse", known, dtype=torch.quint8), x)
    ends = observer.ends()
    found = _error(observer, x, reader, ends)
    for low_factor in (0.5, 0.8, 1.0, 1.3):
        for high_factor in (0.5, 0.8, 1.0, 1.3):
            other = (ends[0] * low_factor, ends[1] * high_factor)
            assert found <= 1.5 * _error(observer, x, reader, other)


def test_fisher_spends_the_grid_on_the_channels_that_matter() -> None:
    x = _normal(64, 2, 30, 30) * torch.tensor([20.0, 0.2]).reshape(1, 2, 1, 1)
    ranges = {}
    for weights in ([1.0, 1.0], [1e-7, 1.0]):
        observer = RangeObserver("fisher", dtype=torch.quint8)
        observer.importance = torch.tensor(weights)
        low, high = _watch(observer, x).ends()
        ranges[weights[0]] = high - low
    assert ranges[1e-7] < 0.3 * ranges[1.0]


def test_the_histogram_method_is_torchs_own() -> None:
    x = _normal(50_000).pow(3)
    ours = _watch(RangeObserver("histogram", dtype=torch.quint8), x).calculate_qparams()
    torchs = torch.ao.quantization.HistogramObserver(dtype=torch.quint8)
    for part in x.chunk(4):
        torchs(part)
    assert [float(v) for v in ours] == [float(v) for v in torchs.calculate_qparams()]


@pytest.mark.parametrize("method", ["min-max", "histogram", "percentile", "mse", "fisher"])
def test_a_constant_tensor_gets_a_grid_all_the_same(method: ActivationObserver) -> None:
    observer = _watch(RangeObserver(method, dtype=torch.quint8), torch.zeros(64))
    scale, zero_point = observer.calculate_qparams()
    assert float(scale) > 0
    assert 0 <= int(zero_point) <= 255


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_each_tensor_gets_the_method_that_is_named_for_its_module() -> None:
    edge = split("mobilenet_v3_small", "features.1").edge
    prepared = prepare_fx(edge, _mapping(), (batch()[:1],))
    place_observers(prepared, lambda name: "mse" if name == "features.0.0" else "min-max")
    methods = {
        node.all_input_nodes[0].name: prepared.get_submodule(str(node.target))
        for node in prepared.graph.nodes
        if str(node.target) in observers_of(prepared)
    }
    first, second = methods["features_0_0"], methods["features_0_2"]
    assert isinstance(first, RangeObserver)
    assert isinstance(second, RangeObserver)
    assert (first.method, first.reader) == ("mse", hardswish)
    assert (second.method, second.reads_unchanged) == ("min-max", True)


def test_an_observer_that_passes_records_nothing() -> None:
    observer = RangeObserver("min-max", dtype=torch.quint8)
    x = _normal(10)
    with passing([observer]):
        assert observer(x) is x
    assert float(observer.max_val) == float("-inf")


def _mapping() -> torch.ao.quantization.QConfigMapping:
    mapping = get_default_qconfig_mapping("qnnpack")
    qconfig = torch.ao.quantization.QConfig(  # type: ignore[no-untyped-call]
        activation=RangeObserver.with_args(dtype=torch.quint8),
        weight=torch.ao.quantization.default_per_channel_weight_observer,
    )
    mapping.set_global(qconfig)
    return mapping


@pytest.mark.parametrize("method", ["min-max", "mse"])
def test_whole_steps_where_a_hard_swish_reads(method: ActivationObserver) -> None:
    x = torch.randn(4000, generator=torch.Generator().manual_seed(3)) * 2 + 0.7
    plain = _watch(RangeObserver(method, hardswish, dtype=torch.quint8), x)
    whole = _watch(RangeObserver(method, hardswish, whole_steps=True, dtype=torch.quint8), x)
    (scale, zero), (before, _) = whole.calculate_qparams(), plain.calculate_qparams()
    steps = round(3 / float(scale))
    assert float(scale) == pytest.approx(3 / steps, rel=1e-6)
    assert float(scale) != float(before)
    assert float(scale) == pytest.approx(float(before), rel=0.6 / steps)
    low, _ = whole.ends()
    assert int(zero) == min(255, round(-low / float(scale)))
    other = _watch(RangeObserver(method, whole_steps=True, dtype=torch.quint8), x)
    same = _watch(RangeObserver(method, dtype=torch.quint8), x)
    assert other.calculate_qparams() == same.calculate_qparams()


@pytest.mark.parametrize(("lowest", "raised"), [(-2.9, True), (-2.7, False), (-3.4, False)])
def test_whole_steps_begin_at_minus_three_where_that_is_near(lowest: float, raised: bool) -> None:
    x = torch.linspace(lowest, 7.0, 5000)
    observer = RangeObserver("min-max", hardswish, whole_steps=True, dtype=torch.quint8)
    scale, zero = _watch(observer, x).calculate_qparams()
    steps = round(3 / float(scale))
    assert int(zero) == (steps if raised else round(-lowest / float(scale)))


def test_whole_steps_where_a_hard_sigmoid_reads() -> None:
    x = torch.randn(3000, generator=torch.Generator().manual_seed(5))
    for method in ("min-max", "mse"):
        observer = RangeObserver(method, hardsigmoid, whole_steps=True, dtype=torch.quint8)
        scale, zero = _watch(observer, x).calculate_qparams()
        assert (float(scale), int(zero)) == (6 / 256, 128)
    learned = LearnedRange(observer)
    with torch.no_grad():
        learned.growth.copy_(torch.tensor([0.2, -0.3]))
    assert [float(p) for p in learned.calculate_qparams()] == [6 / 256, 128]
    assert torch.equal(learned(x), torch.fake_quantize_per_tensor_affine(x, 6 / 256, 128, 0, 255))
    plain = _watch(RangeObserver("min-max", hardsigmoid, dtype=torch.quint8), x)
    assert float(plain.calculate_qparams()[0]) != 6 / 256


def test_a_learned_range_keeps_whole_steps() -> None:
    x = torch.randn(2000, generator=torch.Generator().manual_seed(4)) * 2
    observer = RangeObserver("min-max", hardswish, whole_steps=True, dtype=torch.quint8)
    learned = LearnedRange(_watch(observer, x))
    with torch.no_grad():
        learned.growth.copy_(torch.tensor([0.03, -0.07]))
    scale, _ = learned.calculate_qparams()
    assert 3 / float(scale) == pytest.approx(round(3 / float(scale)), rel=1e-5)
    # What training rounds to is what is exported.
    steps = learned(x).detach() / float(scale)
    assert torch.allclose(steps, steps.round(), atol=1e-3)
