"""QAT: a planted hard case that calibration alone cannot save, and what must stay as it was."""

from __future__ import annotations

import copy
import functools
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, fx, nn

from baseline.images import ImageSet
from baseline.split import SplitNetwork, split_network
from export.learned_range import LearnedRange
from export.observers import RangeObserver
from export.qat import TrainingImages
from export.quantize import QuantizedEdge, qnnpack_engine, quantize_edge
from records.errors import ExportError
from records.manifest import Preprocessing
from records.recipe import ExportRecipe
from tests.export.edges import batch as smooth_batch
from tests.export.edges import network, quantized, split

PLAIN = ExportRecipe(weight_observer="per-tensor", activation_observer="min-max")
TRAINED = msgspec.structs.replace(PLAIN, qat=True, qat_epochs=6, qat_batch_size=32)
SPEC = Preprocessing(native_size=32, image_size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@functools.cache
def native() -> npt.NDArray[np.uint8]:
    """Return 256 seeded smooth images, uint8 (256, 32, 32, 3)."""
    coarse = torch.rand(256, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    smooth = nn.functional.interpolate(coarse, size=32, mode="bilinear")
    return smooth.mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def batch(count: int = 64) -> Tensor:
    x = torch.from_numpy(native()[:count]).permute(0, 3, 1, 2)
    return x.float().div(255).sub(0.5).div(0.25).contiguous()


@functools.cache
def halves() -> SplitNetwork:
    """Return a split network whose answers differ from image to image."""
    model = copy.deepcopy(network("tiny"))
    last: Any = model.get_submodule("classifier")
    with torch.no_grad():
        logits = model(batch(256))
        last.weight.mul_(2 / logits.std(0)[:, None])
        last.bias.copy_((last.bias - logits.mean(0)) * 2 / logits.std(0))
    return split_network(model, "block2")


@functools.cache
def images() -> ImageSet:
    """Return the images with the float network's own answers as labels."""
    with torch.inference_mode():
        labels = halves().server(halves().edge(batch(256))).argmax(1).numpy()
    return ImageSet(images=native(), labels=labels)


def run(recipe: ExportRecipe) -> QuantizedEdge:
    """Quantize after a calibration on ten times the contrast: ranges that fit nothing."""
    training = TrainingImages(images(), SPEC)
    return quantize_edge(halves().edge, [10 * batch()], recipe, halves().server, training)


@functools.cache
def trained() -> QuantizedEdge:
    return run(TRAINED)


def answers(edge: fx.GraphModule) -> Tensor:
    with qnnpack_engine(), torch.inference_mode():
        result: Tensor = halves().server(edge(batch())).log_softmax(1)
    return result


def divergence(quantized: QuantizedEdge) -> float:
    expected = answers(halves().edge)
    got = answers(quantized.float_boundary)
    return float((expected.exp() * (expected - got)).sum(1).mean())


def stored(quantized: QuantizedEdge) -> list[Tensor]:
    """Return every integer and bias that an artifact would hold."""
    layers: list[Any] = list(quantized.float_boundary.modules())
    pairs = [layer._weight_bias() for layer in layers if hasattr(layer, "_weight_bias")]
    assert pairs
    return [t for weight, bias in pairs for t in (weight.int_repr(), bias)]


def same(first: QuantizedEdge, second: QuantizedEdge) -> bool:
    return first.qparams == second.qparams and all(
        torch.equal(a, b) for a, b in zip(stored(first), stored(second), strict=True)
    )


def test_training_brings_the_answers_nearer_to_fp32_than_calibration() -> None:
    assert divergence(run(PLAIN)) > 0.3  # nats: the planted fault does cost something
    assert divergence(trained()) < 0.7 * divergence(run(PLAIN))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    assert same(trained(), run(TRAINED))
    assert not same(trained(), run(msgspec.structs.replace(TRAINED, qat_seed=1)))


def test_the_converted_graph_is_that_of_calibration() -> None:
    plain, learned = run(PLAIN), trained()
    assert [q.tensor for q in learned.qparams] == [q.tensor for q in plain.qparams]
    assert learned.qparams != plain.qparams
    kinds = [
        [(n.op, str(n.target)) for n in e.float_boundary.graph.nodes] for e in (plain, learned)
    ]
    assert kinds[0] == kinds[1]
    types = [[type(m) for _, m in e.float_boundary.named_children()] for e in (plain, learned)]
    assert types[0] == types[1]
    assert learned.float_nodes == ()


def test_the_fp32_halves_stay_as_they_were() -> None:
    before = {
        key: value.clone()
        for half in (halves().edge, halves().server)
        for key, value in half.state_dict().items()
    }
    run(msgspec.structs.replace(TRAINED, qat_epochs=1, qat_images=32))
    after = halves().edge.state_dict() | halves().server.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert not any(p.requires_grad for p in halves().server.parameters())


def test_fewer_images_train_on_the_first_so_many() -> None:
    few = msgspec.structs.replace(TRAINED, qat_epochs=1, qat_images=32)
    first = images().take(np.arange(32))
    alone = quantize_edge(
        halves().edge,
        [10 * batch()],
        msgspec.structs.replace(few, qat_images=None),
        halves().server,
        TrainingImages(first, SPEC),
    )
    assert same(run(few), alone)


def test_every_step_is_reported() -> None:
    steps: list[tuple[str, int, int]] = []
    quantize_edge(
        halves().edge,
        [batch()],
        msgspec.structs.replace(TRAINED, qat_epochs=2, qat_images=64),
        halves().server,
        TrainingImages(images(), SPEC),
        progress=lambda task, done, total: steps.append((task, done, total)),
    )
    assert steps == [("qat", done, 4) for done in (1, 2, 3, 4)]


def test_training_without_images_or_server_is_refused() -> None:
    with pytest.raises(ExportError, match="server and training images"):
        quantize_edge(halves().edge, [batch()], TRAINED, halves().server)
    one = TrainingImages(images().take(np.arange(1)), SPEC)
    with pytest.raises(ExportError, match="at least two"):
        quantize_edge(halves().edge, [batch()], TRAINED, halves().server, one)


class Overflow(nn.Module):
    """Makes logits that no float32 softmax can compare."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits * 3e38


def test_a_loss_that_is_not_finite_is_named() -> None:
    wild = nn.Sequential(copy.deepcopy(halves().server), Overflow())
    training = TrainingImages(images(), SPEC)
    with pytest.raises(ExportError, match=r"not finite at step 0; lower qat_learning_rate"):
        quantize_edge(halves().edge, [batch()], TRAINED, wild, training)


def observer(low: float, high: float) -> RangeObserver:
    watched = RangeObserver(method="min-max", dtype=torch.quint8)
    watched(torch.tensor([low, high]))
    return watched


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 2.0), (-0.5, 0.0), (0.25, 4.0)])
def test_a_learned_range_starts_as_the_observers_grid(low: float, high: float) -> None:
    watched = observer(low, high)
    learned = LearnedRange(watched)
    assert learned.calculate_qparams() == watched.calculate_qparams()
    x = torch.linspace(low - 1, high + 1, 999)
    scale, zero_point = learned.calculate_qparams()
    expected = torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero_point), 0, 255)
    torch.testing.assert_close(learned(x).detach(), expected, rtol=1e-6, atol=1e-6)


def test_a_range_that_clips_learns_to_grow_and_one_that_wastes_steps_to_shrink() -> None:
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 2
    grown = {}
    for name, end in (("clips", 1.0), ("wastes", 400.0)):
        learned = LearnedRange(observer(-end, end))
        optimizer = torch.optim.Adam(learned.parameters(), lr=0.02)
        for _ in range(30):
            optimizer.zero_grad()
            (learned(x) - x).square().mean().backward()
            optimizer.step()
        grown[name] = learned.growth.detach()
    assert bool((grown["clips"] > 0.2).all())
    assert bool((grown["wastes"] < -0.2).all())


def test_an_end_at_zero_stays_there() -> None:
    learned = LearnedRange(observer(0.0, 2.0))
    with torch.no_grad():
        learned.growth.fill_(1.0)
    assert learned.ends().tolist() == pytest.approx([0.0, 2.0 * float(np.exp(1.0))], rel=1e-6)
    assert int(learned.calculate_qparams()[1]) == 0


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("mobilenet_v3_small", "features.4"),
        ("mobilenet_v2", "features.3"),
        ("shufflenet_v2_x1_0", "stage3.0"),
        ("resnet18", "layer2.0"),
    ],
)
def test_other_networks_are_trained_on_the_tensors_that_they_quantize(name: str, cut: str) -> None:
    few = ImageSet(images=native()[:4], labels=np.zeros(4, dtype=np.int64))
    parts, plain = split(name, cut), quantized(name, cut)
    recipe = ExportRecipe(activation_observer="min-max", qat=True, qat_batch_size=2)
    trained = quantize_edge(
        parts.edge, [smooth_batch()], recipe, parts.server, TrainingImages(few, SPEC)
    )
    assert [q.tensor for q in trained.qparams] == [q.tensor for q in plain.qparams]
    assert trained.float_nodes == plain.float_nodes
    assert trained.qparams != plain.qparams
    first, second = ([(n.op, str(n.target)) for n in e.wire.graph.nodes] for e in (plain, trained))
    assert first == second
