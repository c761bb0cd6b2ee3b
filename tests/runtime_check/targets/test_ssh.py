"""ssh as it is used: addresses, one real server, and what a device must not do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from records.errors import InputError, UnsupportedHereError
from runtime_check.targets import ssh as ssh_module
from runtime_check.targets.ssh import (
    ConnectionLostError,
    Destination,
    DeviceError,
    Running,
    Ssh,
    parse_destination,
    printable,
)
from runtime_check.targets.ssh_packages import install_packages, remove_all
from tests.loopback_ssh import Device, loopback


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    with loopback(tmp_path_factory.mktemp("ssh") / "device") as found:
        yield found


def reach(device: Device) -> Ssh:
    return Ssh(parse_destination(device.url), device.config)


GOOD = {
    "ssh://pi@raspberrypi.local": Destination("pi", "raspberrypi.local", None),
    "ssh://pi": Destination(None, "pi", None),
    "ssh://a.b-c_d@10.0.0.7:2222/": Destination("a.b-c_d", "10.0.0.7", 2222),
    "ssh://pi@[fe80::1]:22": Destination("pi", "fe80::1", 22),
}


@pytest.mark.parametrize("url", GOOD)
def test_addresses(url: str) -> None:
    assert parse_destination(url) == GOOD[url]


@pytest.mark.parametrize(
    "url",
    [
        *("ssh://", "ssh://@pi", "ssh://pi:secret@pi", "ssh://pi:0", "ssh://pi:65536"),
        *("ssh://pi/home", "ssh://-oProxyCommand=sh", "ssh://-l@pi", "pi@pi", "ssh://p i"),
        *("ssh://pi\n", "ssh://pi:22:22", "ssh://$(id)@pi", "ssh://pi;id"),
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(InputError, match="is not ssh://"):
        parse_destination(url)


@given(st.text(max_size=40))
def test_no_address_becomes_an_option_or_a_command(text: str) -> None:
    try:
        found = parse_destination(f"ssh://{text}")
    except InputError:
        return
    assert not found.name.startswith("-")
    assert not set(found.name) & set(" \t\n'\"`$;|&<>()\\")


@given(st.text())
def test_a_devices_text_cannot_steer_a_terminal(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) <= 300


def test_arguments_and_data_go_there_unchanged(device: Device) -> None:
    hard = "a b'c\"$HOME\\ ü"
    said = reach(device).ask('printf "%s|" "$1" "$2"; cat', hard, "", data=b"\0\xff")
    assert said == hard.encode() + b"||\0\xff"


def test_a_command_that_fails_says_why(device: Device) -> None:
    with pytest.raises(DeviceError, match=r"pi: no such disk$"):
        reach(device).ask("echo no such disk >&2; exit 4")
    with pytest.raises(DeviceError, match="exit code 4"):
        reach(device).ask("exit 4")


def test_more_than_asked_for_is_not_read(device: Device) -> None:
    assert len(reach(device).ask("head -c 100 /dev/zero", largest=100)) == 100
    with pytest.raises(DeviceError, match="more than 99 bytes"):
        reach(device).ask("head -c 100 /dev/zero", largest=99)


def test_lines_are_printable_and_end(device: Device) -> None:
    with Running(reach(device), 'printf "one\\033[2J\\ntwo\\nrest"') as running:
        assert list(running.lines()) == ["one?[2J", "two"]
    with (
        Running(reach(device), "head -c 9000 /dev/zero") as running,
        pytest.raises(DeviceError, match="line without end"),
    ):
        list(running.lines())


def test_a_device_that_says_nothing_is_given_up(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_module, "IDLE_SECONDS", 0.2)
    with pytest.raises(DeviceError, match="said nothing"):
        reach(device).ask("sleep 20")


def test_no_server_a_wrong_key_and_an_unknown_host(device: Device, tmp_path: Path) -> None:
    with pytest.raises(ConnectionLostError, match="Connection refused"):
        Ssh(Destination(None, "pi", 1), device.config).ask("true")
    text = device.config.read_text(encoding="utf-8")
    (tmp_path / "no_key").write_text(text.replace("user_key", "host_key"), encoding="utf-8")
    with pytest.raises(ConnectionLostError, match="Permission denied"):
        Ssh(Destination(None, "pi", None), tmp_path / "no_key").ask("true")
    unknown = text.replace("HostKeyAlias device", "HostKeyAlias other")
    (tmp_path / "unknown").write_text(unknown, encoding="utf-8")
    with pytest.raises(ConnectionLostError, match="Host key verification failed"):
        Ssh(Destination(None, "pi", None), tmp_path / "unknown").ask("true")


def test_without_ssh_it_is_unsupported_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UnsupportedHereError, match=r"apt-get install .* openssh-client"):
        Ssh(Destination(None, "pi", None)).ask("true")


#: Stands for a Python with pip: it makes the target folder when the hashes are asked for.
FAKE_PIP = """
case "$*" in *--require-hashes*) ;; *) echo no hashes >&2; exit 1 ;; esac
while [ $# -gt 1 ]; do
  if [ "$1" = --target ]; then mkdir -p "$2" && echo once >> "$HOME/count"; fi
  if [ "$1" = --requirement ]; then cp "$2" "$HOME/got"; shift; fi
  shift
done
cp "$1" "$HOME/got" 2> /dev/null || true
"""


def test_packages_are_installed_once(device: Device) -> None:
    ssh = reach(device)
    device.program("python-with-pip", FAKE_PIP)
    folder = install_packages(ssh, ["onnx"], "python-with-pip")
    assert install_packages(ssh, ["onnx"], "python-with-pip") == folder
    assert (device.home / folder).is_dir()
    assert (device.home / "count").read_text(encoding="utf-8") == "once\n"
    for name in ("count", "got"):
        (device.home / name).unlink(missing_ok=True)
    remove_all(ssh)
    assert device.left() == []


def test_a_device_without_pip_or_python_says_what_helps(device: Device) -> None:
    device.program("python-without-pip", "echo No module named pip >&2; exit 1")
    with pytest.raises(UnsupportedHereError, match=r"No module named pip.*python3-pip"):
        install_packages(reach(device), ["onnx"], "python-without-pip")
    with pytest.raises(UnsupportedHereError, match="there is no no-python on pi; give --python"):
        install_packages(reach(device), ["onnx"], "no-python")
    remove_all(reach(device))
    assert device.left() == []
