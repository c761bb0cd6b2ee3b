"""The pinned packages on a device, in a folder of ours below its home; nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterable

from records.errors import UnsupportedHereError
from runtime_check.targets.requirements import packages_id, requirements
from runtime_check.targets.ssh import ConnectionLostError, DeviceError, Ssh

#: Below the home folder of a device.
BASE = ".cache/edgeveil"
PYTHON = "python3"

# The folder appears by a rename, so it is whole or not there. A pip whose caller has gone is waited
# for: both would write to the same place.
_INSTALL = """
set -eu
umask 077
mkdir -p "$1"
exec 9> "$2.lock"
if command -v flock > /dev/null; then flock 9; fi
if [ -d "$2" ]; then cat > /dev/null; echo there; exit 0; fi
rm -rf "$2.partial"
cat > "$2.txt"
"$3" -m pip install --quiet --disable-pip-version-check --no-input --only-binary :all: \
--target "$2.partial" --require-hashes --requirement "$2.txt" >&2
mv "$2.partial" "$2"
echo installed
""".replace("\\\n", "")


def remove_all(ssh: Ssh) -> None:
    """Remove our folder from a device, with every kit, record and package in it.

    Raises:
        ConnectionLostError: no connection.
    """
    ssh.ask('rm -rf "$1" && { rmdir .cache 2> /dev/null || true; }', BASE)


def install_packages(ssh: Ssh, formats: Iterable[str], python: str = PYTHON) -> str:
    """Install what artifacts of some formats need, unless it is there; return its folder.

    Args:
        ssh: the device.
        formats: of the artifacts.
        python: program of the device that has pip.

    Returns:
        The folder, relative to the home folder there.

    Raises:
        ConnectionLostError: no connection.
        UnsupportedHereError: pip could not install there: no pip, no network, or another machine
            than aarch64.
    """
    data = requirements(formats)
    folder = f"{BASE}/site-{packages_id(data)}"
    try:
        ssh.ask('command -v "$1"', python)
    except ConnectionLostError:
        raise
    except DeviceError as error:
        raise UnsupportedHereError(
            f"there is no {python} on {ssh.destination.name}; give --python"
        ) from error
    try:
        ssh.ask(_INSTALL, BASE, folder, python, data=data)
    except ConnectionLostError:
        raise
    except DeviceError as error:
        raise UnsupportedHereError(
            f"the pinned packages could not be installed: {error}; they need aarch64 Linux, "
            "CPython 3.11 to 3.14, pip (apt-get install python3-pip) and the network. Or give "
            "--python, one that has numpy and onnxruntime"
        ) from error
    return folder
