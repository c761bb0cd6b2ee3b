"""Instructions by node: against machine code of known length, and graphs that end earlier."""

from __future__ import annotations

import itertools
import subprocess
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from benchmarks.node_instructions import count_nodes
from records.errors import UnsupportedHereError
from records.manifest import TensorSpec
from runtime_check.targets.call_trace import parse_trace
from runtime_check.targets.counters import differences, median_counts, parse_marks
from runtime_check.targets.cpus import CPUS
from runtime_check.targets.emulated import EmulatedTarget, Guest
from runtime_check.targets.emulator import build_call_trace, find_emulator
from runtime_check.targets.remote import send
from tests.arm.arm_targets import prepared
from tests.runtime_check.tiny_bundle import edited_onnx, tiny_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt
    from torch import nn

    from export.bundle import Bundle

pytestmark = [pytest.mark.arm, pytest.mark.slow]

CPU = "cortex-a72"
ARTIFACT = "edge_int8_wire_onnx"
#: Functions of so many NOPs and a RET, called between two marks. libffi calls them, and the system
#: call of the second mark, through one register.
LENGTHS = (100, 7, 1100)
SCRIPT = """
import ctypes, mmap, sys
system_call = ctypes.CDLL(None).syscall
def function(count):
    code = mmap.mmap(-1, 4 * (count + 1), prot=7)
    code.write((0xD503201F).to_bytes(4, "little") * count + (0xD65F03C0).to_bytes(4, "little"))
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return code, address, ctypes.CFUNCTYPE(None)(address)
made = [function(int(count)) for count in sys.argv[1:]]
for number in range(3):
    system_call(7777, ctypes.c_uint64(number))
    for _, _, call in made:
        call()
system_call(7777, ctypes.c_uint64(3))
print(*(address for _, address, _ in made))
"""
#: The executor's own work for one node, in instructions, at most.
EXECUTOR = 1500
#: A graph that ends with another tensor allocates an output of another size, anew each time.
OUTPUT = 2000


def test_a_call_has_the_instructions_of_the_function(tmp_path: Path) -> None:
    root, emulator = prepared(CPU), find_emulator()
    assert emulator is not None
    guest = Guest(CPUS[CPU], root, emulator)
    library, trace = tmp_path / "call_trace.so", tmp_path / "calls.txt"
    build_call_trace(library)
    command = guest.command(plugin=f"{library},out={trace},calls={len(LENGTHS) + 1}")
    done = subprocess.run(
        [*command[:-1], "-c", SCRIPT, *map(str, LENGTHS)],
        capture_output=True,
        text=True,
        env=guest.environment(),
        check=True,
    )
    addresses = [int(word) for word in done.stdout.split()]
    for run in parse_trace(trace.read_text(encoding="ascii"), 0, 3):
        found = [
            [call.instructions for call in calls]
            for calls in run.sites.values()
            if [call.target for call in calls] == addresses
        ]
        assert found == [[length + 1 for length in LENGTHS]]


@pytest.fixture(scope="module")
def target() -> Iterator[EmulatedTarget]:
    with EmulatedTarget(CPU, prepared(CPU)) as found:
        yield found


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("nodes"), tiny_model, tiny_images)[0]


def test_a_node_costs_what_the_graph_costs_more_than_without_it(
    target: EmulatedTarget, bundle: Bundle
) -> None:
    record = count_nodes(bundle, target, ARTIFACT)
    parts = sum(node.instructions for node in record.nodes) + record.between + record.around
    assert parts == record.whole
    assert record.whole == pytest.approx(record.counted, rel=record.limit)
    assert sum(group.nodes for group in record.operators) == len(record.nodes)
    assert 0 < record.between < EXECUTOR * len(record.nodes)

    tensors = {node.tensor: number for number, node in enumerate(record.nodes)}
    # No further: a DequantizeLinear with two readers follows, and loading the cut graph makes two.
    ends = [tensors["stem_0"] + k for k in range(3)]
    whole = _counted_up_to(target, bundle, ends)
    for (a, less), (b, more) in itertools.pairwise(zip(ends, whole, strict=True)):
        nodes = sum(node.instructions for node in record.nodes[a + 1 : b + 1])
        executor = record.between / len(record.nodes) * (b - a)
        assert more - less == pytest.approx(nodes + executor, rel=0.01, abs=OUTPUT), (a, b)
    # What a list that is shifted by one node would say of the convolution is far from it.
    reshape, conv = (record.nodes[end] for end in ends[1:])
    assert (reshape.operator, conv.tensor) == ("Reshape", "block1_depthwise")
    assert conv.instructions - reshape.instructions > 10 * OUTPUT


def _counted_up_to(target: EmulatedTarget, bundle: Bundle, ends: list[int]) -> list[int]:
    """Count the optimized graph itself, cut behind one node after the other, as it stands."""
    artifact, runs = bundle.artifact(ARTIFACT), 11
    batch = np.random.default_rng(0).standard_normal((1, *artifact.input.shape)).astype(np.float32)
    with target.counting("onnx") as (session, path):
        request = {"do": "optimized", "mode": "default", "threads": 1}
        _, graph = session.ask(request, bundle.read(artifact), largest=1 << 24)
        for number, end in enumerate(ends):
            name, data = _cut_behind(graph, end)
            ending = TensorSpec(name=name, shape=(1,), dtype="uint8")
            cut = msgspec.structs.replace(artifact, output=ending)
            loaded = send(session, data, cut, "optimizations-off")
            loaded.count(batch, first=number * (runs + 1), warmup=10, runs=runs)
            loaded.drop()
        marks = parse_marks(path.read_text(encoding="ascii"))
    firsts = [number * (runs + 1) for number in range(len(ends))]
    return [median_counts(differences(marks, first, runs))["all"] for first in firsts]


def _cut_behind(graph: bytes, end: int) -> tuple[str, bytes]:
    model = onnx.load_model_from_string(graph)
    del model.graph.node[end + 1 :]
    name = model.graph.node[end].output[0]
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.UINT8, None))
    return name, model.SerializeToString()


def test_a_graph_of_one_operator_is_refused(
    target: EmulatedTarget, bundle: Bundle, tmp_path: Path
) -> None:
    def only_the_first_node(model: onnx.ModelProto) -> None:
        del model.graph.node[1:]
        model.graph.node[0].output[0] = model.graph.output[0].name = "boundary"

    cut = edited_onnx(bundle, tmp_path / "cut", ARTIFACT, only_the_first_node)
    with pytest.raises(UnsupportedHereError, match="no two operators"):
        count_nodes(cut, target, ARTIFACT)
