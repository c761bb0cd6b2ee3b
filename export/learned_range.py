"""A range that training moves: fake quantization whose ends are learned with the weights.

Esser et al. 2020, "Learned step size quantization", with both ends of an asymmetric range free
(Bhalgat et al. 2020, "LSQ+"), from where the calibrated observer put them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.ao.quantization.fake_quantize import FakeQuantizeBase

from export.observers import RangeObserver

_MOST_GROWTH = 5.0


class LearnedRange(FakeQuantizeBase):
    """Rounds a tensor to the grid between two ends, and learns by what factor each end moves.

    ``growth``: natural logarithm of the two factors, float32 (2,), 0 at the start. An end that
    starts at 0 stays there: zero lies on every grid, and behind a ReLU it is the lower end.
    """

    def __init__(self, observer: RangeObserver) -> None:
        """Start from the range that a calibrated observer uses.

        Args:
            observer: it must have seen at least two different values.
        """
        super().__init__()
        low, high = observer.ends()
        self.register_buffer("start", torch.tensor([min(low, 0.0), max(high, 0.0)]))
        self.growth = nn.Parameter(torch.zeros(2))
        self.dtype, self.qscheme = observer.dtype, observer.qscheme
        self.quant_min, self.quant_max = observer.quant_min, observer.quant_max
        self.is_dynamic = False
        self._observer = [observer]  # in a list: no submodule, its state is not this module's

    def ends(self) -> Tensor:
        """Return the ends in use, float32 of shape (2,), low ≤ 0 ≤ high."""
        start: Tensor = self.start  # type: ignore[assignment]
        return start * self.growth.exp()

    def hold(self) -> None:
        """Keep both factors between 1/150 and 150, or a wild step would leave no grid at all."""
        with torch.no_grad():
            self.growth.clamp_(-_MOST_GROWTH, _MOST_GROWTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return a float32 tensor of any shape, rounded; gradients pass between the ends."""
        low, high = self.ends().unbind()
        scale = (high - low) / (self.quant_max - self.quant_min)
        observer = self._observer[0]
        scale = scale * observer.to_whole_steps(scale.detach())
        zero_point = observer.to_whole_zero(scale.detach(), self.quant_min - low / scale)
        # LSQ's sec. 2.2: keeps the range's gradient of the size of a weight's.
        share = (x.numel() * self.quant_max) ** -0.5
        rounded: Tensor = torch._fake_quantize_learnable_per_tensor_affine(
            x, scale[None], zero_point[None], self.quant_min, self.quant_max, share
        )
        return rounded

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return scale, float32 of shape (1,), and zero point, integer of shape (1,)."""
        low, high = self.ends().detach().unbind()
        return self._observer[0].qparams_of(low, high)
