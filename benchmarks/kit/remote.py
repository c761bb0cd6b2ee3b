"""A kit on a device: a folder named by the kit's hash, filled step by step, each step atomic.

What is complete there is never sent or run again. The records come back through the pipe too, where
their size can be bounded, so ssh alone is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from records.errors import ArtifactError
from records.progress import Progress
from runtime_check.targets.ssh import DeviceError, Running, Ssh
from runtime_check.targets.ssh_packages import BASE

_STATE = """
set -eu
umask 077
mkdir -p "$1"
cd "$1"
if [ -f kit.tar.gz ]; then echo whole
elif [ -f kit.partial ]; then wc -c < kit.partial
else echo 0; fi
"""
_APPEND = 'cd "$1" && cat >> kit.partial'
_FINISH = """
set -eu
cd "$1"
sum=$(sha256sum kit.partial | cut -d " " -f 1)
if [ "$sum" = "$2" ]; then mv kit.partial kit.tar.gz; echo whole
else rm -f kit.partial; echo damaged; fi
"""
_UNPACK = """
set -eu
cd "$1"
if [ -d files ]; then exit 0; fi
rm -rf files.partial
mkdir files.partial
tar xzf kit.tar.gz -C files.partial
mv files.partial files
"""
_RUN = """
set -eu
if [ -n "$2" ]; then PYTHONPATH="$PWD/$2"; export PYTHONPATH; fi
folder=$1; python=$3; shift 3
exec "$python" "$folder/run.py" --resume --progress --records "$folder/../../records" "$@"
"""
_FETCH = 'cd "$1/records" && if [ -f "$2" ]; then echo found; head -c "$3" "$2"; fi'
_FORGET = 'rm -rf "$1/records"'
_REMOVE = 'rm -rf "$1" && { rmdir "$2" .cache 2> /dev/null || true; }'
_CLEAN = """
set -eu
rm -rf "$1"
if [ -z "$(ls -d "$2"/kit-* 2> /dev/null)" ]; then rm -rf "$2"/site-*; fi
rmdir "$2" .cache 2> /dev/null || true
"""
_CHUNK = 1 << 18
_PASSED_OR_NOT = (0, 2)
_ANSWER = b"found\n"


class RemoteKit:
    """One kit on one device."""

    def __init__(self, ssh: Ssh, sha256: str, folder: str) -> None:
        """Name the place; nothing happens there yet.

        Args:
            ssh: the device.
            sha256: of the kit's archive.
            folder: the one folder in it.
        """
        self._ssh = ssh
        self._sha256 = sha256
        self._place = f"{BASE}/kit-{sha256[:16]}"
        self._files = str(PurePosixPath(self._place, "files", folder))

    def upload(self, data: bytes, progress: Progress) -> tuple[int, int]:
        """Bring the archive there, from where an earlier run was cut, and unpack it.

        Args:
            data: the archive.
            progress: told about the kilobytes.

        Returns:
            Bytes that were there already, and bytes that were sent.

        Raises:
            ConnectionLostError: no connection, or it broke off.
            DeviceError: the device has no room, or the archive arrived damaged twice.
        """
        whole, there = self._state(len(data))
        sent = 0
        if not whole:
            sent = self._send(data, there, progress)
            if not self._finish():
                # What an earlier run had left was no beginning of this archive.
                there, sent = 0, self._send(data, 0, progress)
                self._require_finished()
        self._ssh.ask(_UNPACK, self._place)
        return there, sent

    def run(
        self, steps: Sequence[str], *, site: str, python: str, progress: Progress
    ) -> tuple[str, ...]:
        """Run the kit's program; steps that are complete there are not run again.

        Args:
            steps: ``check``, ``bench``.
            site: folder with the packages, relative to the home folder; empty for none.
            python: program of the device.
            progress: told what the device says of its progress.

        Returns:
            What it printed, at most the last 200 lines.

        Raises:
            ConnectionLostError: the connection broke off.
            ArtifactError: the program failed there.
        """
        said: list[str] = []
        with Running(self._ssh, _RUN, self._files, site, python, *steps) as running:
            running.end_input()
            for line in running.lines():
                if not _report(line, progress):
                    said = [*said[-199:], line]
            code = running.wait()
        if code not in _PASSED_OR_NOT:
            last = said[-1] if said and said[-1].startswith("run.py: ") else running.said
            raise ArtifactError(
                f"the kit failed on {self._ssh.destination.name} (exit code {code}): {last}"
            )
        return tuple(said)

    def fetch(self, name: str, largest: int) -> bytes | None:
        """Return one record of the device, None where there is none.

        Args:
            name: file in the folder of records.
            largest: bytes that it may have.

        Raises:
            DeviceError: it is larger, or the connection broke off.
        """
        limit = largest + 1
        answer = self._ssh.ask(_FETCH, self._place, name, str(limit), largest=limit + 64)
        if not answer.startswith(_ANSWER):
            return None
        data = answer.removeprefix(_ANSWER)
        if len(data) > largest:
            raise DeviceError(
                f"{name} of {self._ssh.destination.name} is larger than {largest} bytes"
            )
        return data

    def forget_records(self) -> None:
        """Remove the records there, which have been brought back: the next run measures anew."""
        self._ssh.ask(_FORGET, self._place)

    def remove(self) -> None:
        """Remove the kit there; the packages stay for the next one."""
        self._ssh.ask(_REMOVE, self._place, BASE)

    def clean(self) -> None:
        """Remove the kit and, unless another kit is there, the packages and our folder."""
        self._ssh.ask(_CLEAN, self._place, BASE)

    def _state(self, size: int) -> tuple[bool, int]:
        said = self._ssh.ask(_STATE, self._place).decode(errors="replace").strip()
        if said == "whole":
            return True, size
        return False, min(int(said), size) if said.isdigit() and len(said) < 16 else 0

    def _send(self, data: bytes, start: int, progress: Progress) -> int:
        view = memoryview(data)
        with Running(self._ssh, _APPEND, self._place) as running:
            for offset in range(start, len(data), _CHUNK):
                running.send(view[offset : offset + _CHUNK])
                done = min(offset + _CHUNK, len(data))
                progress("send the kit (kB)", done >> 10, max(1, len(data) >> 10))
            running.end_input()
            code = running.wait()
        if code != 0:
            raise DeviceError(
                f"{self._ssh.destination.name} did not take the kit: "
                f"{running.said or f'exit code {code}'}"
            )
        return len(data) - start

    def _require_finished(self) -> None:
        if not self._finish():
            raise DeviceError(
                f"the kit arrived damaged on {self._ssh.destination.name}; is its disk sound?"
            )

    def _finish(self) -> bool:
        return self._ssh.ask(_FINISH, self._place, self._sha256).strip() == b"whole"


def _report(line: str, progress: Progress) -> bool:
    """Pass on ``progress DONE TOTAL TASK``; return whether the line was one."""
    word, _, rest = line.partition(" ")
    done, _, rest = rest.partition(" ")
    total, _, task = rest.partition(" ")
    if word != "progress" or not (done.isdigit() and total.isdigit() and len(done + total) < 20):
        return False
    progress(f"device: {task[:60]}", int(done), max(1, int(total)))
    return True
