"""Which call in ONNX Runtime's executor starts the nodes' kernels, told from a trace of calls.

The executor calls ``OpKernel::Compute``, a virtual function, once for each node
(onnxruntime/core/framework/sequential_executor.cc). No symbol of a stripped library says where,
so the call is told by what it does: of all calls through a register it is the one that is made
once for each node, one after the other, and that leads to a function of each operator's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from records.errors import UnsupportedHereError
from runtime_check.targets.call_trace import Call, TracedRun

#: Operators that inherit another's function, or are registered with the same class: contrib_ops/cpu
#: (fused_conv.cc, fused_gemm.cc, matmul) and core/providers/cpu/nn/pool.cc of ONNX Runtime.
_SHARES = {
    "com.microsoft.FusedConv": "Conv",
    "com.microsoft.FusedGemm": "Gemm",
    "com.microsoft.FusedMatMul": "MatMul",
    "GlobalAveragePool": "AveragePool",
    "GlobalMaxPool": "MaxPool",
}
_ADVICE = "instructions cannot be given to nodes"


def require_two_operators(operators: Sequence[str]) -> None:
    """Refuse a graph whose kernels cannot be told apart by their operators.

    Args:
        operators: of the nodes.

    Raises:
        UnsupportedHereError: there are no two different ones.
    """
    if len(set(_functions_of(operators))) < 2:
        raise UnsupportedHereError(
            f"the optimized graph has {len(operators)} nodes and no two operators with functions "
            f"of their own, by which the kernels' calls are told; {_ADVICE}"
        )


def kernel_calls(
    runs: Sequence[TracedRun], operators: Sequence[str]
) -> tuple[tuple[Call, ...], ...]:
    """Return the calls of the kernels, one a node, for each run.

    Args:
        runs: of the same process, ≥ 1.
        operators: of the nodes, in the order in which they are executed; two different at least.

    Raises:
        UnsupportedHereError: no call fits in every run, or several do and none of them contains the
            others.
    """
    functions = _functions_of(operators)
    fitting = set.intersection(
        *({site for site, calls in run.sites.items() if _fits(calls, functions)} for run in runs)
    )
    if not fitting:
        raise UnsupportedHereError(
            f"no call of the runtime is made once for each of the {len(operators)} nodes and leads "
            f"to other functions for other operators; {_ADVICE}"
        )
    outermost = [site for site in fitting if _contains_all(runs, site, fitting)]
    if len(outermost) != 1:
        raise UnsupportedHereError(
            f"{len(fitting)} calls of the runtime could be that of the {len(operators)} nodes' "
            f"kernels, and they disagree; {_ADVICE}"
        )
    return tuple(run.sites[outermost[0]] for run in runs)


def _functions_of(operators: Sequence[str]) -> list[str]:
    return [_SHARES.get(operator, operator) for operator in operators]


def _fits(calls: Sequence[Call], functions: Sequence[str]) -> bool:
    if len(calls) != len(functions):
        return False
    if any(a.after > b.before for a, b in itertools.pairwise(calls)):
        return False
    # An operator may have several functions, one a type; no function serves two operators.
    serves = dict(zip((call.target for call in calls), functions, strict=True))
    return all(serves[c.target] == name for c, name in zip(calls, functions, strict=True))


def _contains_all(runs: Sequence[TracedRun], outer: int, sites: set[int]) -> bool:
    return all(
        a.before <= b.before and b.after <= a.after
        for run in runs
        for inner in sites
        for a, b in zip(run.sites[outer], run.sites[inner], strict=True)
    )
