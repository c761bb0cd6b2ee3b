"""The requirements of a kit: aarch64 wheels by version and SHA-256, for Python 3.11 to 3.14.

The versions and the files for Python 3.11 are those of the emulated targets. pip in its mode
``--require-hashes`` wants every dependency named too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from records.hashing import sha256_bytes
from runtime_check.targets.wheels import RUNTIME_WHEELS


@dataclass(frozen=True)
class Pin:
    """One distribution: its version and the SHA-256 of every wheel that is allowed."""

    distribution: str
    version: str
    sha256: tuple[str, ...]

    @property
    def lines(self) -> str:
        """The lines of a requirements file."""
        allowed = "".join(f" \\\n    --hash=sha256:{one}" for one in self.sha256)
        return f"{self.distribution}=={self.version}{allowed}\n"


#: Of the wheels for Python 3.12, 3.13 and 3.14, in that order.
_NEWER = {
    "numpy": (
        "5f9fb9157b4ce2971008323afe46053787b526ef624fea915b261468a8421a0f",
        "72fbe16c6fac95aedf5937fa873445cec2110be35d8a4e9433d7501fd98dae6b",
        "40fdc1ae7125e518ea98e53e69a4ebc27e1fd50510c47b7ea130cf21e5e1d42b",
    ),
    "onnxruntime": (
        "e36c187006e7a7c8b8d6d57f1a209dd63f52430dca6c282b177718ad6b841054",
        "54d02baff2df38777b4c3cc7af326406fe8b8a48f54720f4c446d2d327920a79",
        "4135431395c1f37de0811f452c20a8b774f51812fda6c49611ed9899bbdbeeb4",
    ),
}
#: What ONNX Runtime depends on; pure Python.
_DEPENDENCIES = (
    Pin(
        "flatbuffers",
        "25.12.19",
        ("7634f50c427838bb021c2d66a3d1168e9d199b0607e6329399f04846d42e20b4",),
    ),
    Pin(
        "packaging",
        "26.4",
        ("81383611a09c1bc0b08b76e0fd5829d7c6824c65b27a6aee339da133f4233ea2",),
    ),
    Pin(
        "protobuf",
        "7.36.2",
        ("bdb3a345d48db958e6ce1f18e508beb0cc981d64f24088427549c866cd039f1e",),
    ),
)
#: LiteRT and what it depends on beyond that; for Python 3.11 to 3.14.
_LITERT = (
    Pin(
        "ai-edge-litert",
        "2.3.0",
        (
            "853fc608f96da87bd5f3458465dfb9abbf18d5ae6b94eceacead407146f175ae",
            "9891611b23a87cc2ace60e4b5ee9a2ee6f0fb7f395f009470961ae6e6310e1b8",
            "2ab71e4f5dfa65b3882634b42755f455f3e7415630d720200bd792733e15e257",
            "899b41423b30f3cef1ce8a361443092fdeefc4d536132511634fa21548347b0a",
        ),
    ),
    Pin(
        "backports-strenum",
        "1.2.8",
        ("fc297cb26971f7d5e15a478a06a78575197f81daea47975771b1aae996dcccf4",),
    ),
    Pin(
        "ml-dtypes",
        "0.6.0",
        (
            "7728c0420ec1c338564fc8b01015ff2d58567e70f17fedce5a0a7c0308c0d5b9",
            "37da32aa97749251025666d62372775019594577b9c9e9cfda83bed48d778fdb",
            "28d676428b104bb9717b0928bc5c5129f2d6b51b6727587cc4289e7bf8713cb5",
            "317be9967fb84b0ce4e80e6b1bf71213d21971621cf6f1e501a63602a95297bf",
        ),
    ),
    Pin(
        "tqdm",
        "4.70.1",
        ("c293e525e6fef9c20e8728fd4612df02a0aa31bb5fe91ecd93e123b1b7bffa73",),
    ),
    Pin(
        "typing-extensions",
        "4.15.0",
        ("f0fa19c6845758ab08074a0cfa8b7aecb71c999ca73d62883bc25cc018c4e548",),
    ),
)


def pins(formats: Iterable[str]) -> tuple[Pin, ...]:
    """Return every distribution that artifacts of some formats need on a device.

    Args:
        formats: of the bundle's artifacts.
    """
    runtime = tuple(
        Pin(wheel.distribution, wheel.version, (wheel.sha256, *_NEWER[wheel.distribution]))
        for wheel in RUNTIME_WHEELS
    )
    return (*runtime, *_DEPENDENCIES, *(_LITERT if "litert" in set(formats) else ()))


def requirements(formats: Iterable[str]) -> bytes:
    """Return the requirements file for `pins`."""
    head = "# aarch64 Linux, CPython 3.11 to 3.14: pip install --require-hashes -r THIS_FILE\n"
    return (head + "".join(pin.lines for pin in pins(formats))).encode()


def packages_id(data: bytes) -> str:
    """Return the name of the folder that holds the packages of a requirements file."""
    return sha256_bytes(data)[:16]
