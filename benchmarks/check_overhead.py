"""What ``check`` costs over a bare session loop: both over the same images, interleaved in one run.

``python -m benchmarks.check_overhead BUNDLE [IMAGES] [REPETITIONS] [THREADS]``
"""

from __future__ import annotations

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
from runtime_check.wire import dequantize, to_wire

Images = npt.NDArray[np.uint8]
Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Overhead:
    """Seconds of three loops over the same images; each array is (repetitions, batches).

    ``bare``: preprocess, run the session, keep the output in one array made beforehand.
    ``checked``: what ``check`` does with the artifact: preprocess, run, compare with the reference,
    keep the worst images. ``run_only``: the bare loop over images preprocessed beforehand.
    """

    bare: Seconds
    checked: Seconds
    run_only: Seconds

    @property
    def ratio(self) -> float:
        """Cost of checked over bare."""
        return cost(self.checked) / cost(self.bare)

    @property
    def ratio_to_run_only(self) -> float:
        """Cost of checked over run_only: the comparison that counts preprocessing as overhead."""
        return cost(self.checked) / cost(self.run_only)


def cost(seconds: Seconds) -> float:
    """Return the seconds of a loop over all images: the sum of each batch's median repetition.

    A busy machine adds a time slice to some batches of some repetitions; the median drops them.

    Args:
        seconds: (repetitions, batches).
    """
    return float(np.median(seconds, axis=0).sum())


def measure(
    bundle: Bundle,
    images: Images,
    *,
    artifact: str = "edge_int8_onnx",
    repetitions: int = 7,
    threads: int = 1,
    through_server: bool = False,
) -> Overhead:
    """Time the check's pass of one ONNX artifact against the bare loop, batch by batch.

    The loops take turns at every batch, each going first equally often, so that a machine that
    slows down for a while slows all of them. The reference is the artifact itself with
    optimizations off: it differs in some values, as eager INT8 does, and needs no torch.

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
    works = (loops.bare, loops.checked, loops.run_only)
    _once(loops, works, 0)
    taken = [_once(loops, works, repetition) for repetition in range(repetitions)]
    bare, checked, run_only = np.moveaxis(np.array(taken), 1, 0)
    return Overhead(bare=bare, checked=checked, run_only=run_only)


def _once(loops: _Loops, works: tuple[Callable[[slice], None], ...], repetition: int) -> Seconds:
    """Run every loop over all images once; return the seconds, (loops, batches)."""
    seconds = np.zeros((len(works), len(loops.parts)))
    loops.restart()
    for number, part in enumerate(loops.parts):
        for place in range(len(works)):
            which = (repetition + number + place) % len(works)
            started = time.perf_counter()
            works[which](part)
            seconds[which, number] = time.perf_counter() - started
    return seconds


class _Loops:
    """The three loops over the same images, and what they need made beforehand."""

    def __init__(
        self, bundle: Bundle, images: Images, name: str, *, threads: int, through_server: bool
    ) -> None:
        self._images = images
        self._spec = bundle.manifest.preprocessing
        self._wire = bundle.manifest.wire
        step = bundle.manifest.recipe.check.batch_size
        self.parts = [slice(s, s + step) for s in range(0, len(images), step)]
        self._artifact = bundle.artifact(name)
        self._loaded: LoadedSession = OrtRuntime().load(bundle, self._artifact, threads=threads)
        self._server: LoadedSession | None = None
        if through_server:
            server = bundle.artifact("server_fp32_onnx")
            self._server = OrtRuntime("default").load(bundle, server, threads=threads)
        slow = OrtRuntime("optimizations-off").load(bundle, self._artifact, threads=threads)
        self._ready = preprocess(images, self._spec)
        self._reference = self._quantized(slow)
        self._reference_real = dequantize(self._reference, self._wire)
        output = self._artifact.output
        self._kept = np.empty((len(images), *output.shape), dtype=output.dtype)
        self._top1 = np.empty(len(images), dtype=np.int64)
        self.restart()

    def _quantized(self, loaded: LoadedSession) -> Images:
        parts = (loaded.run(self._ready[part]) for part in self.parts)
        return np.concatenate(
            [q if q.dtype == np.uint8 else to_wire(q, self._wire)[0] for q in parts]
        )

    def restart(self) -> None:
        self._pass = Int8Pass(self._artifact, OrtRuntime(), self._loaded, self._wire)
        self._head = None if self._server is None else ServerHead(self._server, self._wire)

    def bare(self, part: slice) -> None:
        self._keep(part, preprocess(self._images[part], self._spec))

    def run_only(self, part: slice) -> None:
        self._keep(part, self._ready[part])

    def _keep(self, part: slice, batch: npt.NDArray[np.float32]) -> None:
        output = self._loaded.run(batch)
        self._kept[part] = output
        if self._server is not None:
            self._top1[part] = self._server.run(output).argmax(axis=1)

    def checked(self, part: slice) -> None:
        batch = preprocess(self._images[part], self._spec)
        q, real = self._reference[part], self._reference_real[part]
        boundary = self._pass.compare(batch, reference_batch(q, self._wire, real))
        if self._head is not None:
            self._head.begin_batch()
            self._pass.classify(boundary, self._head)


def main(arguments: list[str]) -> int:
    """Print the cost and the ratios for a bundle over seeded random images of its native size."""
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
                f"{half}: {number} images, bare {cost(found.bare):.3f} s, check "
                f"{cost(found.checked):.3f} s, ratio {found.ratio:.3f} "
                f"({found.ratio_to_run_only:.3f} of the session runs alone)"
            )
    except EdgeveilError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
