"""The same INT8 artifact on a target and on the host, compared value by value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from records.manifest import WireTensor
from records.parity import HostDifference, Mode
from runtime_check.lsb import LsbTally, Reference, reference_batch
from runtime_check.passes import Int8Pass


class HostComparison:
    """One artifact in one mode of the target against one mode of the host."""

    def __init__(self, there: Int8Pass, here: Int8Pass, wire: WireTensor) -> None:
        """Keep the two; no image is seen yet."""
        self.there = there
        self.here = here
        self.tally = LsbTally()
        self._wire = wire

    def update(
        self,
        batch: npt.NDArray[np.float32],
        reference: Reference,
        seen: Mapping[int, npt.NDArray[np.uint8]],
    ) -> None:
        """Run one batch here and add the target's difference from it.

        Args:
            batch: float32 (N, 3, S, S).
            reference: eager INT8's boundary of the same images.
            seen: the target's boundaries, uint8 (N, …), by ``id`` of their pass.
        """
        boundary = self.here.compare(batch, reference)
        self.tally.update(reference_batch(boundary.q, self._wire), seen[id(self.there)])

    def record(self) -> HostDifference:
        """Return the record of all batches so far.

        Raises:
            ArtifactError: no image was seen, or the host's boundary is zero on every image.
        """
        return HostDifference(
            artifact=self.there.artifact.name,
            mode=self.there.loaded.mode,
            host_mode=self.here.loaded.mode,
            from_host=self.tally.summary(),
            host_from_eager=self.here.tally.summary(),
        )


def compared_with_host(
    there: Iterable[Int8Pass], here: Iterable[Int8Pass], wire: WireTensor
) -> tuple[HostComparison, ...]:
    """Pair every mode of the host with the mode of the target that computes the same graph.

    With optimizations off both compute the graph as written; every other mode of the host has the
    target's shipping mode for its counterpart.

    Args:
        there: the target's passes.
        here: the host's passes.
        wire: scale and zero point of both.
    """
    known = {(one.artifact.name, one.loaded.mode): one for one in there}
    shipped: dict[str, Mode] = {}
    for one in there:
        if one.loaded.mode != "optimizations-off":
            shipped.setdefault(one.artifact.name, one.loaded.mode)
    return tuple(
        HostComparison(known[one.artifact.name, mode], one, wire)
        for one in here
        if (mode := _counterpart(one, shipped)) and (one.artifact.name, mode) in known
    )


def _counterpart(here: Int8Pass, shipped: Mapping[str, Mode]) -> Mode | None:
    mode = here.loaded.mode
    return mode if mode == "optimizations-off" else shipped.get(here.artifact.name)
