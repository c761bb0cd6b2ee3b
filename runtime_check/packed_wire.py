"""The packed wire format: boundary values of 1 to 8 bits without the unused ones. Numpy only.

docs/wire-format.md describes it byte by byte. Value i of an image (C order) takes bits i·b … i·b +
b − 1 of the image's stream, its least significant bit first; bit k of the stream is bit k mod 8 of
byte k div 8, 0 being the least significant. Each image starts at a byte of its own and takes
exactly ceil(values · b / 8) bytes; what is left of its last byte is 0.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from records.errors import InputError

MAX_BITS = 8

Bytes = npt.NDArray[np.uint8]


class PackedWireError(InputError):
    """Values or bytes that are none of the packed wire format."""


class ValueOutOfRangeError(PackedWireError):
    """A value needs more bits than the format gives it."""


class PackedSizeError(PackedWireError):
    """The bytes are more or fewer than the shape and bits ask for."""


class NonZeroPaddingError(PackedWireError):
    """An image's last byte has a bit set that belongs to no value."""


def packed_size(shape: tuple[int, ...], bits: int) -> int:
    """Return the bytes of one packed image, ceil(values · bits / 8).

    Args:
        shape: of one image's boundary, without the batch axis.
        bits: per value, 1 to 8.

    Raises:
        PackedWireError: ``bits`` is not 1 to 8.
    """
    if not 1 <= bits <= MAX_BITS:
        raise PackedWireError(f"the packed wire format has 1 to {MAX_BITS} bits, not {bits}")
    return -(-math.prod(shape) * bits // 8)


def pack(q: Bytes, bits: int) -> Bytes:
    """Pack boundary values.

    Args:
        q: uint8 (N, …), every value below 2^bits.
        bits: per value, 1 to 8.

    Returns:
        uint8 (N, ceil(values · bits / 8)).

    Raises:
        PackedWireError: ``q`` is not uint8 with a batch axis, or ``bits`` is not 1 to 8.
        ValueOutOfRangeError: a value is 2^bits or larger.
    """
    if q.dtype != np.uint8 or q.ndim < 1:
        raise PackedWireError(f"only uint8 (N, …) can be packed, not {q.dtype}{q.shape}")
    size = packed_size(q.shape[1:], bits)
    require_in_range(q, bits, "the boundary")
    values = q.reshape(len(q), math.prod(q.shape[1:]))
    stream = np.unpackbits(values[:, :, None], axis=2, count=bits, bitorder="little")
    packed = np.packbits(stream.reshape(len(q), values.shape[1] * bits), axis=1, bitorder="little")
    return packed.reshape(len(q), size)


def unpack(packed: Bytes, bits: int, shape: tuple[int, ...]) -> Bytes:
    """Return the values that were packed; every byte string has one reading or is refused.

    Args:
        packed: uint8 (N, ceil(values · bits / 8)).
        bits: per value, 1 to 8.
        shape: of one image's boundary, without the batch axis.

    Returns:
        uint8 (N, *shape), every value below 2^bits.

    Raises:
        PackedWireError: ``packed`` is not uint8 with two axes, or ``bits`` is not 1 to 8.
        PackedSizeError: an image has another number of bytes.
        NonZeroPaddingError: a bit after the last value is set.
    """
    size = packed_size(shape, bits)
    if packed.dtype != np.uint8 or packed.ndim != 2:
        raise PackedWireError(
            f"only uint8 (N, bytes) can be read, not {packed.dtype}{packed.shape}"
        )
    if packed.shape[1] != size:
        raise PackedSizeError(
            f"an image of shape {shape} at {bits} bits takes {size} bytes, not {packed.shape[1]}"
        )
    count = math.prod(shape)
    stream = np.unpackbits(packed, axis=1, bitorder="little")
    if stream[:, count * bits :].any():
        raise NonZeroPaddingError(
            f"the last byte of an image has bits set behind its {count} values of {bits} bits"
        )
    values = stream[:, : count * bits].reshape(len(packed), count, bits)
    return np.packbits(values, axis=2, bitorder="little").reshape(len(packed), *shape)


def require_in_range(q: Bytes, bits: int, what: str) -> None:
    """Refuse boundary values that do not fit.

    Args:
        q: uint8 of any shape.
        bits: per value, 1 to 8.
        what: whose values they are, for the message.

    Raises:
        ValueOutOfRangeError: a value is 2^bits or larger.
    """
    largest = int(q.max(initial=0))
    if largest >> bits:
        raise ValueOutOfRangeError(
            f"{what} holds the value {largest}, over the {2**bits - 1} of {bits} bits"
        )
