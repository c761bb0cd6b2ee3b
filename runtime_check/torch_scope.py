"""The scope in which torch runs a quantized program: engine, threads, no gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from export.quantize import qnnpack_engine


@contextlib.contextmanager
def torch_scope(threads: int) -> Iterator[None]:
    """Run the block under engine qnnpack with ``threads`` threads; restore both afterwards.

    Under torch's x86 engine the same program gives other values (2 LSB seen), and the threads
    are a setting of the whole process.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with qnnpack_engine(), torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)
