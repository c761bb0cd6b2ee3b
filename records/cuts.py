"""One place where a network can be cut in two, and what the cut costs."""

from __future__ import annotations

import msgspec


class Cut(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A valid cut: the edge ends with the output of module ``name``.

    ``edge_macs``: multiply-accumulates of one image (convolutions and linear layers).
    ``edge_share_macs``: the edge's share of the whole network's, 0 to 1.
    ``boundary_shape``: without the batch axis. Bytes are of one image's boundary tensor.
    ``whole_network``: nothing but passing the logits on is left for the server.
    """

    name: str
    edge_parameters: int
    edge_macs: int
    edge_share_macs: float
    boundary_shape: tuple[int, ...]
    boundary_bytes_fp32: int
    boundary_bytes_uint8: int
    whole_network: bool


class CutList(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every valid cut of a network, in the order of its graph; what ``inspect --json`` prints.

    ``input_shape``: (3, S, S) of one image.
    """

    model: str
    input_shape: tuple[int, int, int]
    cuts: tuple[Cut, ...]
