"""ONNX Runtime on the CPU: sessions from verified bytes, in a mode that is always recorded."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from export.bundle import Bundle
from records.errors import ArtifactError
from records.manifest import Artifact
from records.parity import Mode, OrtMode
from runtime_check.machine import has_vnni, is_x86, needs_precise_mode
from runtime_check.runtime import probe

_ERRORS_ONLY = 3


def ort_mode() -> OrtMode:
    """Return the mode in which INT8 is computed rightly on this machine, and why.

    On an x86 CPU without VNNI, ONNX Runtime multiplies u8 by s8 with a 16-bit accumulator that
    saturates: the outputs are wrong on such a host and right on ARM. Its session option
    ``session.x64quantprecision`` takes a slower and exact kernel instead
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
    """
    if needs_precise_mode():
        reason = (
            "this x86 CPU has no VNNI: the default u8·s8 kernels would saturate 16-bit "
            "accumulators, so session.x64quantprecision=1 is set"
        )
        return OrtMode(mode="precise", has_vnni=False, reason=reason)
    reason = (
        "this x86 CPU has VNNI: its u8·s8 kernels accumulate in 32 bits"
        if is_x86()
        else f"{platform.machine()} is not x86: its INT8 kernels do not saturate"
    )
    return OrtMode(mode="default", has_vnni=has_vnni(), reason=reason)


def compared_modes() -> tuple[Mode, ...]:
    """Return the modes that ``check`` runs an INT8 model in, `ort_mode`'s first.

    On x86 both the default and the precise kernels are run, so that the record says what the
    precise mode is worth; elsewhere the option has no effect.
    """
    chosen = ort_mode().mode
    others: tuple[Mode, ...] = ("default", "precise") if is_x86() else ("default",)
    return (chosen, "optimizations-off", *(mode for mode in others if mode != chosen))


def session_options(mode: Mode, threads: int) -> onnxruntime.SessionOptions:
    """Return the options of a CPU session.

    Args:
        mode: ``default``, ``precise`` or ``optimizations-off``.
        threads: threads inside an operator; operators run one after the other.

    Raises:
        ArtifactError: ``mode`` is not one of ONNX Runtime's.
    """
    if mode in {"qnnpack", "xnnpack"}:
        raise ArtifactError(f"{mode} is no mode of ONNX Runtime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    if mode == "optimizations-off":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    elif mode == "precise":
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


@dataclass(frozen=True)
class OrtRuntime:
    """ONNX Runtime, CPU only; ``mode`` None takes `ort_mode`'s for INT8 and default for FP32."""

    mode: Mode | None = None

    @property
    def name(self) -> str:
        """Short name of the runtime."""
        return "ort"

    def load(self, bundle: Bundle, artifact: Artifact, *, threads: int = 1) -> LoadedSession:
        """Open a session from the artifact's verified bytes and probe it.

        Args:
            bundle: a verified bundle.
            artifact: one of format ``onnx``.
            threads: threads inside an operator, ≥ 1.

        Raises:
            ArtifactError: ONNX Runtime refuses the model, or the probe fails.
        """
        mode = self.mode if self.mode is not None else _mode_for(artifact)
        loaded = load_session(bundle.read(artifact), artifact, mode=mode, threads=threads)
        probe(loaded, artifact)
        return loaded


class OrtMobileRuntime:
    """ONNX Runtime from an ``.ort`` file: what was saved is what runs, in the default mode."""

    @property
    def name(self) -> str:
        """Short name of the runtime."""
        return "ort-mobile"

    def load(self, bundle: Bundle, artifact: Artifact, *, threads: int = 1) -> LoadedSession:
        """Open a session from the artifact's verified bytes and probe it.

        Args:
            bundle: a verified bundle.
            artifact: one of format ``ort``.
            threads: threads inside an operator, ≥ 1.

        Raises:
            ArtifactError: ONNX Runtime refuses the model, or the probe fails.
        """
        loaded = load_session(bundle.read(artifact), artifact, mode="default", threads=threads)
        probe(loaded, artifact)
        return loaded


def load_session(data: bytes, artifact: Artifact, *, mode: Mode, threads: int) -> LoadedSession:
    """Open a session from an ONNX model's bytes; the output is not probed.

    Args:
        data: the whole ``.onnx`` or ``.ort`` file; ONNX Runtime tells them apart.
        artifact: names the input and the output.
        mode: ``default``, ``precise`` or ``optimizations-off``.
        threads: threads inside an operator, ≥ 1.

    Raises:
        ArtifactError: ONNX Runtime refuses the model.
    """
    try:
        session = onnxruntime.InferenceSession(
            data, session_options(mode, threads), providers=["CPUExecutionProvider"]
        )
    # ONNX Runtime's errors share no base class below Exception.
    except Exception as error:
        raise ArtifactError(f"ONNX Runtime cannot load {artifact.name}: {error}") from error
    return LoadedSession(session, artifact, mode)


class LoadedSession:
    """One open session; see `runtime_check.runtime.LoadedArtifact`."""

    def __init__(
        self, session: onnxruntime.InferenceSession, artifact: Artifact, mode: Mode
    ) -> None:
        """Keep the session and the names of its ends."""
        self._session = session
        self._name = artifact.name
        self._outputs = [artifact.output.name]
        self._input = artifact.input.name
        self._mode = mode

    @property
    def mode(self) -> Mode:
        """The mode that the session was opened in."""
        return self._mode

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Run float32 (N, *input.shape) and return (N, *output.shape).

        Raises:
            ArtifactError: ONNX Runtime refused the batch or failed.
        """
        try:
            output: npt.NDArray[Any] = self._session.run(self._outputs, {self._input: batch})[0]
        # ONNX Runtime's errors share no base class below Exception.
        except Exception as error:
            raise ArtifactError(f"{self._name} failed in ONNX Runtime: {error}") from error
        return output


def _mode_for(artifact: Artifact) -> Mode:
    return ort_mode().mode if artifact.precision == "int8" else "default"
