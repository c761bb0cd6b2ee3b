"""What a reconstruction gives away beside its pixels: which image it was, and of which class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attack.metrics import Images
from baseline.images import ImageSet
from baseline.preprocessing import preprocess
from export.bundle import Bundle
from records.attack import Recovery
from runtime_check.runtime import runtime_for

#: Victims among which a reconstruction has to be recognised; the work grows with the square.
MOST_PROBES = 1000
_WHOLE_NETWORK = ("edge_fp32_onnx", "server_fp32_onnx")
_BATCH = 250

Classes = NDArray[np.int64]


class WholeNetwork:
    """The FP32 network, edge and server half, as a classifier of stored images."""

    def __init__(self, bundle: Bundle, *, threads: int) -> None:
        """Load both halves from a verified bundle."""
        edge, server = (bundle.artifact(name) for name in _WHOLE_NETWORK)
        self._preprocessing = bundle.manifest.preprocessing
        self._edge = runtime_for(edge).load(bundle, edge, threads=threads)
        self._server = runtime_for(server).load(bundle, server, threads=threads)

    def classes(self, images: NDArray[np.uint8]) -> Classes:
        """Return the top-1 class of each image, int64 (N,), of uint8 (N, H, W, 3)."""
        found = []
        for start in range(0, len(images), _BATCH):
            batch = preprocess(images[start : start + _BATCH], self._preprocessing)
            found.append(np.argmax(self._server.run(self._edge.run(batch)), axis=1))
        return np.concatenate(found)


class RecoveryMeter:
    """Measures re-identification and label recovery against one set of victims."""

    def __init__(self, network: WholeNetwork, victim: ImageSet, victims: Images) -> None:
        """Use the first ``MOST_PROBES`` victims.

        Args:
            network: classifies originals and reconstructions.
            victim: as stored, with true labels.
            victims: the same, float32 (N, 3, H, W) in [0, 1].
        """
        self._network = network
        self._gallery = victims[:MOST_PROBES]
        self._labels = victim.labels[:MOST_PROBES]
        self._predicted = network.classes(victim.images[:MOST_PROBES])

    @property
    def original_top1(self) -> float:
        """Share of the original victims whose true class the network finds."""
        return float((self._predicted == self._labels).mean())

    def measure(self, reconstructions: Images, stored: NDArray[np.uint8]) -> Recovery:
        """Return the shares for reconstructions of the first M victims.

        Args:
            reconstructions: float32 (M, 3, H, W) in [0, 1].
            stored: the same rounded, uint8 (M, H, W, 3): what the network is fed.
        """
        probes = min(len(reconstructions), len(self._gallery))
        nearest = nearest_original(reconstructions[:probes], self._gallery)
        classes = self._network.classes(stored[:probes])
        return Recovery(
            probes=probes,
            gallery=len(self._gallery),
            reidentified=float((nearest == np.arange(probes)).mean()),
            label_top1=float((classes == self._labels[:probes]).mean()),
            label_agreement=float((classes == self._predicted[:probes]).mean()),
        )


def nearest_original(reconstructions: Images, originals: Images) -> NDArray[np.intp]:
    """Return for each reconstruction the index of the original with the lowest MSE, the first.

    Args:
        reconstructions: float32 (M, 3, H, W).
        originals: float32 (N, 3, H, W).

    Returns:
        int (M,).
    """
    x = reconstructions.reshape(len(reconstructions), -1).astype(np.float64)
    y = originals.reshape(len(originals), -1).astype(np.float64)
    # ‖x‖² is the same for every original.
    distances = (y * y).sum(1)[None, :] - 2.0 * (x @ y.T)
    nearest: NDArray[np.intp] = np.argmin(distances, axis=1)
    return nearest
