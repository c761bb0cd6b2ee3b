"""A conversation with ``runner.py`` in another process: here, emulated, or behind ssh."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any, cast

import msgspec

from records.errors import ArtifactError, UnsupportedHereError
from runtime_check.targets.runner import PROTOCOL

#: For one answer: a batch of hundreds of images through an unoptimized graph takes minutes.
ANSWER_SECONDS = 1800.0
_MAX_LINE = 65536
_CHUNK = 1 << 20


class Answer(msgspec.Struct, frozen=True):
    """The header of an answer; keys that this side does not know are ignored."""

    bytes: int = 0
    error: str | None = None
    dtype: str | None = None
    shape: tuple[int, ...] = ()
    protocol: str | None = None
    machine: str = ""
    versions: dict[str, str] = {}


class RunnerSession:
    """One runner process. What it sends is not trusted: sizes are bounded by who asks.

    The process is anything that connects standard input and output to ``runner.py``, so
    ``ssh HOST python3 runner.py`` is a target like any other.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None,
        *,
        name: str,
        preamble: bytes = b"",
    ) -> None:
        """Start the process.

        Args:
            command: program and arguments.
            environment: the process's whole environment; None gives it this one's.
            name: of the target, for errors.
            preamble: sent before the first request.

        Raises:
            UnsupportedHereError: the program cannot be started.
            ArtifactError: it did not take the preamble.
        """
        self._name = name
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=None if environment is None else dict(environment),
                bufsize=0,
            )
        except OSError as error:
            self._stderr.close()
            raise UnsupportedHereError(f"{name}: {command[0]}: {error.strerror}") from error
        # Both are pipes, as asked for above.
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._answers = cast("IO[bytes]", self._process.stdout)
        self._send(preamble)

    def hello(self, imports: Sequence[str] = ()) -> Answer:
        """Return what the runner says of itself, after it imported ``imports``.

        Raises:
            UnsupportedHereError: it does not start, does not import, or speaks another protocol.
        """
        try:
            answer, _ = self.ask({"do": "hello", "import": list(imports)})
        except ArtifactError as error:
            raise UnsupportedHereError(f"{self._name} does not run here: {error}") from error
        if answer.protocol != PROTOCOL:
            raise UnsupportedHereError(
                f"{self._name} speaks {answer.protocol}, not {PROTOCOL}; prepare it again"
            )
        return answer

    def ask(
        self, request: dict[str, Any], data: bytes = b"", *, largest: int = 0
    ) -> tuple[Answer, bytes]:
        """Send one request and return the answer's header and bytes.

        Args:
            request: see ``runner.py``.
            data: the bytes that belong to it.
            largest: how many bytes the answer may have.

        Raises:
            ArtifactError: the runner answered with an error, or broke off.
        """
        header = msgspec.json.encode(request | {"bytes": len(data)}) + b"\n"
        self._send(header)
        self._send(data)
        deadline = time.monotonic() + ANSWER_SECONDS
        line = self._line(deadline)
        try:
            answer = msgspec.json.decode(line, type=Answer)
        except msgspec.DecodeError as error:
            raise self._broken(f"answered {line[:80]!r}") from error
        if answer.error is not None:
            raise ArtifactError(f"on {self._name}: {answer.error}")
        if not 0 <= answer.bytes <= largest:
            raise self._broken(f"answered with {answer.bytes} bytes where {largest} are expected")
        return answer, self._exactly(answer.bytes, deadline)

    def close(self) -> None:
        """End the process: its input ends, and what still runs a moment later is killed."""
        for stream in (self._requests, self._answers):
            with contextlib.suppress(OSError):
                stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._requests.write(view[:_CHUNK]) :]
        except OSError as error:
            raise self._broken("took no request") from error

    def _line(self, deadline: float) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n"):
            # Byte by byte: what follows the line must stay in the pipe.
            line += self._read(1, deadline)
            if len(line) > _MAX_LINE:
                raise self._broken("answered with a line without end")
        return bytes(line)

    def _exactly(self, count: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < count:
            data += self._read(min(_CHUNK, count - len(data)), deadline)
        return bytes(data)

    def _read(self, count: int, deadline: float) -> bytes:
        descriptor = self._answers.fileno()
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            self._process.kill()
            raise self._broken(f"gave no answer within {ANSWER_SECONDS:g} s")
        data = os.read(descriptor, count)
        if not data:
            raise self._broken("broke off")
        return data

    def _broken(self, what: str) -> ArtifactError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2)
        code = self._process.poll()
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines()
        last = f"; it said: {said[-1][:300]}" if said else ""
        ended = "" if code is None else f" (exit code {code})"
        return ArtifactError(f"the runner on {self._name} {what}{ended}{last}")
