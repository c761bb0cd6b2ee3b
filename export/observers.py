"""Observers of activations: five ways to choose a range, three aware of what reads the tensor.

A hard-swish maps everything below −3 to zero and a hard-sigmoid everything outside −3 … 3 to a
constant: steps of the grid spent there carry nothing. Errors are therefore measured behind the
activation that reads the tensor, in a range that never reaches beyond what it can tell apart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.ao.quantization.observer import HistogramObserver
from torch.nn.functional import hardsigmoid, hardswish

from records.recipe import ActivationObserver

#: Share of the values that ``percentile`` leaves outside at each end.
_TAIL = 1e-5
#: Ends that the search of ``mse`` tries on each side, coarse and then fine.
_COARSE, _FINE = 24, 8
_BINS = 4096
_SAMPLES_PER_BIN = 2
#: x + 3 runs to twice 3, which is stored as uint8.
_MOST_STEPS = 127
#: Steps at the upper end given away to let the grid begin at −3: two in a hundred.
_MOST_RAISED = 5
#: The grid on which hard-sigmoid's own output, fixed by FX at 1/256, has the integers of its input.
_SIGMOID_GRID = (6 / 256, 128)

Reader = Callable[[Tensor], Tensor]


def _unchanged(x: Tensor) -> Tensor:
    return x


#: Reader → the range outside of which all values are one to it.
_LIVE: dict[Reader, tuple[float, float]] = {
    _unchanged: (float("-inf"), float("inf")),
    hardswish: (-3.0, float("inf")),
    hardsigmoid: (-3.0, 3.0),
}
#: Methods that look behind the reader; ``min-max`` and ``histogram`` are torch's own.
_AWARE = {"percentile", "mse", "fisher"}
_READERS: dict[Any, Reader] = {
    nn.Hardswish: hardswish,
    nn.Hardsigmoid: hardsigmoid,
    nn.functional.hardswish: hardswish,
    nn.functional.hardsigmoid: hardsigmoid,
}


class RangeObserver(HistogramObserver):
    """FX's histogram observer with a choice of range.

    ``min-max``: all that was seen. ``histogram``: torch's own search (the smallest squared error
    of the tensor itself). ``percentile``: all but 1e-5 of the values at each end, and nothing that
    the reader cannot tell apart. ``mse``: the
    smallest squared error behind the reader, by a grid search over both ends, the errors of
    rounding and of clipping together (Nagel et al. 2021, "A white paper on neural network
    quantization", sec. 3.1, but measured behind the activation). ``fisher``: the same with each
    channel's error weighed by how much the network's answer depends on it; see
    ``export.importance``.

    ``mse`` and ``fisher`` need the calibration images twice: first for the ends, then, after
    ``count_now``, for a histogram over them.

    With ``whole_steps`` the scale of what a hard-swish reads is moved to the nearest of which 3 is
    a whole multiple, by half a step in 3 at most, and a grid that begins a few steps above −3 is
    moved to begin there: hard-swish is then a product of two stored tensors. What a hard-sigmoid
    reads gets 256 steps from −3 to 3, and the integers of its input are those of its output.
    """

    def __init__(
        self,
        method: ActivationObserver = "histogram",
        reader: Reader = _unchanged,
        *,
        whole_steps: bool = False,
        **settings: Any,
    ) -> None:
        """Choose the method and the function that reads the tensor.

        Args:
            method: see the class.
            reader: one of hard-swish, hard-sigmoid and the identity.
            whole_steps: see the class.
            settings: of torch's HistogramObserver.
        """
        super().__init__(**settings)
        self.method, self.reader, self.whole_steps = method, reader, whole_steps
        self.importance: Tensor | None = None
        self.counts: Tensor | None = None
        self.tapping = False
        self.tapped: Tensor | None = None
        self.chosen: tuple[float, float] | None = None
        self.rounding = False
        self.shared = False
        self.passing = False

    @property
    def reads_unchanged(self) -> bool:
        """Whether what reads the tensor is not an activation that is known here."""
        return self.reader is _unchanged

    @property
    def needs_second_pass(self) -> bool:
        """Whether the images must be shown once more after ``count_now``."""
        return self.method in {"mse", "fisher"} and bool(self.max_val > self.min_val)

    def count_now(self) -> None:
        """Go from looking for the ends to counting between them."""
        self.counts = torch.zeros(_BINS, dtype=torch.float64)

    def forward(self, x_orig: Tensor) -> Tensor:
        """Record a float32 tensor of any shape and return it unchanged."""
        if self.tapping:
            x_orig.retain_grad()
            self.tapped = x_orig
            # What reads it may work in place, which would overwrite the kept tensor.
            return x_orig.clone()
        if self.rounding:
            return self._rounded(x_orig)
        if self.passing:
            return x_orig
        x = x_orig.detach()
        if self.counts is None:
            super().forward(x.clamp(*_LIVE[self.reader]) if self.method in _AWARE else x)
        elif self.needs_second_pass:
            self.counts += self._count(x)
        return x_orig

    def _count(self, x: Tensor) -> Tensor:
        """Return the histogram between the ends; values beyond belong to the last bins."""
        low, high = float(self.min_val), float(self.max_val)
        places = ((x - low) * (_BINS / (high - low))).clamp_(0, _BINS - 1).long()
        if self.method == "mse" or self.importance is None or x.dim() < 2:
            return torch.bincount(places.flatten(), minlength=_BINS).double()
        shape = (1, -1, *(1,) * (x.dim() - 2))
        weights = self.importance.reshape(shape).expand_as(x)
        return torch.bincount(places.flatten(), weights.flatten(), minlength=_BINS).double()

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return scale, float32 of shape (1,), and zero point, integer of shape (1,)."""
        if not bool(self.max_val > self.min_val):
            return cast("tuple[Tensor, Tensor]", super().calculate_qparams())
        low, high = (torch.tensor(end) for end in self.ends())
        return self.qparams_of(low, high)

    def qparams_of(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale, float32, and zero point of a range, both of shape (1,).

        Args:
            low: the lower end, float32 scalar.
            high: the upper end.
        """
        scale, zero_point = self._calculate_qparams(low, high)
        if not self.whole_steps or self.reads_unchanged:
            return scale, zero_point
        scale = (scale.double() * self.to_whole_steps(scale)).float()
        shifted = self.quant_min - torch.round(low.clamp(max=0) / scale)
        shifted = self.to_whole_zero(scale, shifted.clamp(self.quant_min, self.quant_max))
        return scale, shifted.to(zero_point.dtype)

    def to_whole_steps(self, scale: Tensor) -> float:
        """Return the factor that takes a scale, of shape (1,), to that of ``whole_steps``."""
        if not self.whole_steps or self.reads_unchanged:
            return 1.0
        if self.reader is hardsigmoid:
            return _SIGMOID_GRID[0] / float(scale)
        steps = round(3 / float(scale))
        return 3 / steps / float(scale) if 1 <= steps <= _MOST_STEPS else 1.0

    def to_whole_zero(self, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Return the zero point, of shape (1,), that ``whole_steps`` makes of one.

        Args:
            scale: after `to_whole_steps`, of shape (1,).
            zero_point: in steps; it need not be whole.
        """
        if not self.whole_steps or self.reads_unchanged:
            return zero_point
        if self.reader is hardsigmoid:
            return torch.full_like(zero_point, _SIGMOID_GRID[1])
        steps = round(3 / float(scale))
        first = float(zero_point.detach())
        raised = steps <= _MOST_STEPS and steps - _MOST_RAISED <= first < steps
        return torch.full_like(zero_point, steps) if raised else zero_point

    def ends(self) -> tuple[float, float]:
        """Return the range in use: what was chosen by hand, else what the method finds."""
        if self.chosen is None:
            low, high = _ENDS[self.method](self)
            self.chosen = float(low), float(high)
        return self.chosen

    def share(self) -> None:
        """Watch several tensors: they have neither one reader nor the same channels."""
        self.reader, self.shared = _unchanged, True

    def choose(self, low: float, high: float) -> None:
        """Take this range, whatever the method found."""
        self.chosen = low, high

    def _rounded(self, x: Tensor) -> Tensor:
        """Return what the grid of the range in use makes of a float32 tensor."""
        scale, zero_point = self.calculate_qparams()
        return torch.fake_quantize_per_tensor_affine(
            x, float(scale), int(zero_point), self.quant_min, self.quant_max
        )


def _min_max(observer: RangeObserver) -> tuple[Tensor, Tensor]:
    return observer.min_val, observer.max_val


def _own_search(observer: RangeObserver) -> tuple[Tensor, Tensor]:
    return observer._non_linear_param_search()


def _percentile(observer: RangeObserver) -> tuple[Tensor, Tensor]:
    counts = observer.histogram.double()
    below = counts.cumsum(0) / counts.sum()
    edges = torch.linspace(0, 1, len(counts) + 1, dtype=torch.float64)
    low = edges[int((below <= _TAIL).sum())]
    high = edges[int((below < 1 - _TAIL).sum()) + 1]
    width = (observer.max_val - observer.min_val).double()
    start = observer.min_val.double()
    return (start + low * width).float(), (start + high * width).float()


def _least_error(observer: RangeObserver) -> tuple[Tensor, Tensor]:
    """Search both ends: first over the whole range, then around the best."""
    first, last = float(observer.min_val), float(observer.max_val)
    values, weights = _samples(observer)
    # Zero always lies on the grid, so an end never crosses it.
    lows, highs = _towards_zero(min(first, 0.0)), _towards_zero(max(last, 0.0))
    low, high = _best_pair(observer, values, weights, lows, highs)
    lows, highs = _around(low, lows, _FINE), _around(high, highs, _FINE)
    low, high = _best_pair(observer, values, weights, lows, highs)
    return torch.tensor(low), torch.tensor(high)


def _towards_zero(end: float) -> list[float]:
    return [end * share for share in torch.linspace(1.0, 0.04, _COARSE).tolist()] if end else [0.0]


def _around(end: float, tried: list[float], count: int) -> list[float]:
    if len(tried) == 1:
        return tried
    step = abs(tried[0] - tried[1])
    outer = max(abs(e) for e in tried)
    sign = 1.0 if end >= 0 else -1.0
    near = torch.linspace(abs(end) - step, abs(end) + step, 2 * count + 1).tolist()
    return [sign * e for e in near if 0 < e <= outer] or [end]


def _samples(observer: RangeObserver) -> tuple[Tensor, Tensor]:
    """Return values inside every filled bin and their weights, both float64 (M,)."""
    counts = observer.histogram.double() if observer.counts is None else observer.counts
    first, last = observer.min_val.double(), observer.max_val.double()
    width = (last - first) / len(counts)
    inside = (torch.arange(_SAMPLES_PER_BIN, dtype=torch.float64) + 0.5) / _SAMPLES_PER_BIN
    places = torch.arange(len(counts), dtype=torch.float64)[:, None] + inside
    weights = (counts / _SAMPLES_PER_BIN)[:, None].expand_as(places)
    keep = weights.flatten() > 0
    return (first + places * width).flatten()[keep], weights.flatten()[keep]


def _best_pair(
    observer: RangeObserver, values: Tensor, weights: Tensor, lows: list[float], highs: list[float]
) -> tuple[float, float]:
    read = observer.reader(values)
    found = (float("inf"), lows[0], highs[0])
    for low in lows:
        for high in highs:
            scale, zero_point = observer.qparams_of(torch.tensor(low), torch.tensor(high))
            step, zero = float(scale), int(zero_point)
            q = (values / step).round_().add_(zero).clamp_(observer.quant_min, observer.quant_max)
            error = float((observer.reader(q.sub_(zero).mul_(step)) - read).square_() @ weights)
            found = min(found, (error, low, high))
    return found[1], found[2]


_ENDS: dict[ActivationObserver, Callable[[RangeObserver], tuple[Tensor, Tensor]]] = {
    "min-max": _min_max,
    "histogram": _own_search,
    "percentile": _percentile,
    "mse": _least_error,
    "fisher": _least_error,
}


def place_observers(
    prepared: fx.GraphModule,
    choose: Callable[[str], ActivationObserver],
    *,
    whole_steps: bool = False,
) -> None:
    """Give every observed activation of a prepared graph the observer of its method and reader.

    Args:
        prepared: of ``prepare_fx``, nothing observed yet; changed in place.
        choose: module path (or node name, for a function) of what makes the tensor → method.
        whole_steps: see `RangeObserver`.
    """
    made: dict[int, RangeObserver] = {}
    placed: dict[str, RangeObserver] = {}
    for node in prepared.graph.nodes:
        observer = _module_of(prepared, node)
        if not isinstance(observer, RangeObserver):
            continue
        # A concatenation and what goes into it share one observer, and must go on sharing it.
        if id(observer) in made:
            made[id(observer)].share()
        else:
            made[id(observer)] = RangeObserver(
                method=choose(tensor_name(node.all_input_nodes[0])),
                reader=_reader_of(prepared, node),
                whole_steps=whole_steps,
                dtype=observer.dtype,
                quant_min=observer.quant_min,
                quant_max=observer.quant_max,
            )
        placed[str(node.target)] = made[id(observer)]
    for path, observer in placed.items():
        owner, _, name = path.rpartition(".")
        setattr(prepared.get_submodule(owner), name, observer)


def _module_of(prepared: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return prepared.get_submodule(str(node.target)) if node.op == "call_module" else None


def tensor_name(node: fx.Node) -> str:
    """Return what a tensor is called in recipes: the path of its module, else its node's name."""
    return str(node.target) if node.op == "call_module" else node.name


def observers_of(prepared: fx.GraphModule) -> dict[str, RangeObserver]:
    """Return the range observers of a prepared graph by their module names, in graph order."""
    found = {
        str(n.target): prepared.get_submodule(str(n.target))
        for n in prepared.graph.nodes
        if n.op == "call_module"
    }
    return {name: m for name, m in found.items() if isinstance(m, RangeObserver)}


@contextlib.contextmanager
def passing(observers: Iterable[RangeObserver]) -> Iterator[None]:
    """Let observers pass everything on without recording it."""
    for observer in observers:
        observer.passing = True
    try:
        yield
    finally:
        for observer in observers:
            observer.passing = False


def _reader_of(module: fx.GraphModule, observed: fx.Node) -> Reader:
    readers = {_reader(module, user) for user in observed.users}
    return readers.pop() if len(readers) == 1 else _unchanged


def _reader(module: fx.GraphModule, node: fx.Node) -> Reader:
    if node.op == "call_module":
        return _READERS.get(type(module.get_submodule(str(node.target))), _unchanged)
    return _READERS.get(node.target, _unchanged) if node.op == "call_function" else _unchanged
