"""What ``check`` costs over a bare session loop: both over the same images, interleaved in one run.

``python -m benchmarks.check_overhead BUNDLE [IMAGES] [REPETITIONS] [THREADS]``
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from baseline.preprocessing import preprocess
from export.bundle import Bundle, load_bundle
from records.errors import EdgeveilError
from runtime_check.lsb import reference_batch
from runtime_check.ort import LoadedSession, OrtRuntime
from runtime_check.passes import Int8Pass
from runtime_check.server_head import ServerHead
from runtime_check.wire import to_wire

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Overhead:
    """Seconds of each repetition over all images, and their ratio.

    ``bare``: preprocess, run the session, keep the output in one array made beforehand.
    ``checked``: what ``check`` does with the artifact: preprocess, run, compare with the reference,
    keep the worst images. ``run_only``: the bare loop over images preprocessed beforehand.
    ``ratio``: median over repetitions of checked / bare of the same repetition.
    """

    bare: tuple[float, ...]
    checked: tuple[float, ...]
    run_only: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median of checked / bare."""
        return _median_ratio(self.checked, self.bare)

    @property
    def ratio_to_run_only(self) -> float:
        """Median of checked / run_only: the comparison that counts preprocessing as overhead."""
        return _median_ratio(self.checked, self.run_only)


def measure(
    bundle: Bundle,
    images: Images,
    *,
    artifact: str = "edge_int8_onnx",
    repetitions: int = 7,
    threads: int = 1,
    through_server: bool = False,
) -> Overhead:
    """Time the check's pass of one ONNX artifact against the bare loop, repetition by repetition.

    The order of the three loops turns round at each repetition, so that a machine that warms up
    or slows down favours none. The reference is the artifact itself with optimizations off:
    it differs in some values, as eager INT8 does, and needs no torch.

    Args:
        bundle: a verified bundle.
        images: native images, uint8 (N, H, W, 3).
        artifact: an INT8 edge of format ``onnx``.
        repetitions: how often each loop runs over all images.
        threads: threads inside an operator.
        through_server: add the server half and top-1 to all loops.

    Raises:
        EdgeveilError: the artifact is missing or does not run.
    """
    loops = _Loops(bundle, images, artifact, threads=threads, through_server=through_server)
    names = ("bare", "checked", "run_only")
    works: dict[str, Callable[[], object]] = {name: getattr(loops, name) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for work in works.values():
        work()
    for repetition in range(repetitions):
        for name in names[repetition % 3 :] + names[: repetition % 3]:
            started = time.perf_counter()
            works[name]()
            seconds[name].append(time.perf_counter() - started)
    return Overhead(**{name: tuple(values) for name, values in seconds.items()})


class _Loops:
    """The three loops over the same images, and what they need made beforehand."""

    def __init__(
        self, bundle: Bundle, images: Images, name: str, *, threads: int, through_server: bool
    ) -> None:
        self._images = images
        self._spec = bundle.manifest.preprocessing
        self._wire = bundle.manifest.wire
        self._batch = bundle.manifest.recipe.check.batch_size
        self._artifact = bundle.artifact(name)
        self._loaded: LoadedSession = OrtRuntime().load(bundle, self._artifact, threads=threads)
        self._server: LoadedSession | None = None
        if through_server:
            server = bundle.artifact("server_fp32_onnx")
            self._server = OrtRuntime("default").load(bundle, server, threads=threads)
        slow = OrtRuntime("optimizations-off").load(bundle, self._artifact, threads=threads)
        self._ready = preprocess(images, self._spec)
        self._reference = self._quantized(slow)
        output = self._artifact.output
        self._kept = np.empty((len(images), *output.shape), dtype=output.dtype)
        self._top1 = np.empty(len(images), dtype=np.int64)

    def _quantized(self, loaded: LoadedSession) -> Images:
        parts = (loaded.run(self._ready[part]) for part in self._parts())
        return np.concatenate(
            [q if q.dtype == np.uint8 else to_wire(q, self._wire)[0] for q in parts]
        )

    def _parts(self) -> list[slice]:
        return [slice(s, s + self._batch) for s in range(0, len(self._images), self._batch)]

    def bare(self) -> None:
        for part in self._parts():
            self._keep(part, preprocess(self._images[part], self._spec))

    def run_only(self) -> None:
        for part in self._parts():
            self._keep(part, self._ready[part])

    def _keep(self, part: slice, batch: npt.NDArray[np.float32]) -> None:
        output = self._loaded.run(batch)
        self._kept[part] = output
        if self._server is not None:
            self._top1[part] = self._server.run(output).argmax(axis=1)

    def checked(self) -> None:
        one = Int8Pass(self._artifact, OrtRuntime(), self._loaded, self._wire)
        head = None if self._server is None else ServerHead(self._server, self._wire)
        for part in self._parts():
            batch = preprocess(self._images[part], self._spec)
            reference = reference_batch(self._reference[part], self._wire)
            boundary = one.compare(batch, reference)
            if head is not None:
                head.begin_batch()
                one.classify(boundary, head)
        one.tally.summary()


def _median_ratio(above: tuple[float, ...], below: tuple[float, ...]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def main(arguments: list[str]) -> int:
    """Print the median ratios for a bundle over seeded random images of its native size."""
    counts = [int(value) for value in arguments[1:]] + [10_000, 7, 1][len(arguments) - 1 :]
    number, repetitions, threads = counts
    try:
        bundle = load_bundle(Path(arguments[0]))
        side = bundle.manifest.preprocessing.native_size
        shape = (number, side, side, 3)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        for through_server in (False, True):
            found = measure(
                bundle,
                images,
                repetitions=repetitions,
                threads=threads,
                through_server=through_server,
            )
            half = "edge and server" if through_server else "edge"
            print(
                f"{half}: {number} images, bare {statistics.median(found.bare):.3f} s, check "
                f"{statistics.median(found.checked):.3f} s, ratio {found.ratio:.3f} "
                f"({found.ratio_to_run_only:.3f} of the session runs alone)"
            )
    except EdgeveilError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
