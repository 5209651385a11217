"""What kind of layer a variable belongs to, by the operations that consume it.

Variables are followed through reads, copies, calls and loop bodies to the first operation that
computes with them. Gradient operations are ignored: in a training graph a plain convolution's
kernel also feeds the operation that a transposed convolution is made of.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from wtool.dialects.tf_graph import Graph, Operation, Scope

# One step is one operation looked at for one variable.
MAX_STEPS = 2_000_000

_CONSUMERS = {
    "Conv2D": "conv",
    "Conv3D": "conv",
    "DepthwiseConv2dNative": "depthwise",
    "Conv2DBackpropInput": "transposed_conv",
    "Conv2DBackpropInputV2": "transposed_conv",
    "Conv3DBackpropInputV2": "transposed_conv",
    "MatMul": "dense",
    "BatchMatMul": "matmul",
    "BatchMatMulV2": "matmul",
    "BatchMatMulV3": "matmul",
    "Einsum": "matmul",
    "FusedBatchNorm": "norm",
    "FusedBatchNormV2": "norm",
    "FusedBatchNormV3": "norm",
    "CudnnRNN": "recurrent",
    "CudnnRNNV2": "recurrent",
    "CudnnRNNV3": "recurrent",
    "BlockLSTM": "recurrent",
    "BlockLSTMV2": "recurrent",
    "LSTMBlockCell": "recurrent",
    "GRUBlockCell": "recurrent",
    "ResourceGather": "embedding",
    "Gather": "embedding",
    "GatherV2": "embedding",
}
_PASSES = frozenset((
    "ReadVariableOp", "Identity", "IdentityN", "Cast", "Enter", "RefEnter", "Switch", "RefSwitch",
    "Merge", "ExpandDims", "Reshape", "Transpose", "StopGradient", "Snapshot",
))  # fmt: skip
_LOOPS = frozenset(("While", "StatelessWhile"))
_BRANCHES = frozenset(("If", "StatelessIf", "Case", "StatelessCase"))
# "gradients/", "gradients_1/", "gradient_tape/", "conv_grad/" as a part of a name.
_GRADIENT = re.compile(r"(?:^|/)gradients?[_/]|_grad(?:_\d+)?/")
_PARTITIONS = "ConcatPartitions"
_BACKWARD = re.compile(r"__backward_")


def variable_kinds(graph: Graph, ranks: Mapping[str, int]) -> dict[str, str]:
    """Kind by variable name, for the variables of `ranks` (name -> number of dimensions) that are
    used.

    A partitioned variable goes by the name of the whole. Gives up quietly, with what it has, where
    a graph takes more than MAX_STEPS.
    """
    walker = _Walker(graph)
    found: dict[str, set[str]] = {}
    for name, kind in walker.uses():
        whole = re.sub(r"/part_\d+\Z", "", name)
        key = name if name in ranks else whole
        if key in ranks:
            found.setdefault(key, set()).add(_by_rank(kind, ranks[key]))
    decided = {name: _decide(kinds) for name, kinds in found.items()}
    return {name: kind for name, kind in decided.items() if kind is not None}


def spread_to_siblings(kinds: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """`kinds`, and for other `names` the kind of all siblings (same name up to the last "/")."""
    by_layer: dict[str, set[str]] = {}
    for name, kind in kinds.items():
        by_layer.setdefault(name.rpartition("/")[0], set()).add(kind)
    spread = dict(kinds)
    for name in names:
        layer, separator, _ = name.rpartition("/")
        siblings = by_layer.get(layer, set()) if separator else set()
        if name not in spread and len(siblings) == 1:
            spread[name] = next(iter(siblings))
    return spread


def _by_rank(kind: str, rank: int) -> str:
    """A batched product with a matrix is a dense layer, else a projection of attention."""
    if kind == "matmul":
        return "dense" if rank == 2 else "attention"
    return kind


def _decide(kinds: set[str]) -> str | None:
    if len(kinds) > 1:
        kinds = kinds - {"dense"} if len(kinds - {"dense"}) == 1 else kinds
    return next(iter(kinds)) if len(kinds) == 1 else None


class _Walker:
    """Follows variables through the scopes of a graph. consumers: scope -> value -> its uses."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.steps = 0
        self.roots: dict[str, set[str]] = {}
        self.consumers: dict[str, dict[str, list[tuple[Operation, int]]]] = {}

    def uses(self) -> Iterator[tuple[str, str]]:
        """(variable, kind) for each operation that computes with a variable."""
        for function, captured in self.graph.captured.items():
            scope = self.graph.scopes.get(function)
            if scope is None or _BACKWARD.search(function):
                continue
            arguments = scope.arguments[len(scope.arguments) - len(captured) :]
            for argument, variable in zip(arguments, captured, strict=False):
                if variable:
                    yield from self._follow(variable, function, argument)
        for operation in self.graph.scopes[""].operations:
            if operation.variable:
                yield from self._follow(operation.variable, "", operation.name)

    def _follow(self, variable: str, scope_name: str, value: str) -> Iterator[tuple[str, str]]:
        pending = deque([(scope_name, value, False)])
        seen = set(pending)
        while pending and self.steps < MAX_STEPS:
            scope_name, value, looped = pending.popleft()
            for operation, place in self._uses_of(scope_name, value):
                self.steps += 1
                if _GRADIENT.search(operation.name):
                    continue
                kind = _consumer(operation, place) or self._normalises(scope_name, operation)
                if kind:
                    yield variable, "recurrent" if looped and kind in ("dense", "matmul") else kind
                    continue
                for step in self._steps(scope_name, operation, place, looped):
                    if step not in seen:
                        seen.add(step)
                        pending.append(step)

    def _steps(
        self, scope_name: str, operation: Operation, place: int, looped: bool
    ) -> Iterator[tuple[str, str, bool]]:
        """Where a value goes on, that is input `place` of `operation`."""
        if operation.op in _PASSES or _PARTITIONS in operation.name:
            yield scope_name, operation.name, looped or operation.op in ("Enter", "RefEnter")
            return
        calls = operation.calls
        if not calls and operation.op in self.graph.scopes:
            calls = [("f", operation.op)]
        argument = place - 1 if operation.op in _BRANCHES else place
        for _, function in calls:
            scope = self.graph.scopes.get(function)
            if scope is None or _BACKWARD.search(function):
                continue
            if 0 <= argument < len(scope.arguments):
                yield function, scope.arguments[argument], looped or operation.op in _LOOPS

    def _normalises(self, scope_name: str, operation: Operation) -> str | None:
        """ "norm" for 1 / sqrt(variance + epsilon), or a scale on what is normalised."""
        if operation.op in ("Add", "AddV2"):
            after = self._uses_of(scope_name, operation.name)
            return "norm" if any(use.op == "Rsqrt" for use, _ in after) else None
        if operation.op == "Mul":
            roots = self.roots.get(scope_name)
            if roots is None:
                roots = self.roots[scope_name] = _normalised(self.graph.scopes[scope_name])
            if any(value.split(":", 1)[0] in roots for value in operation.inputs):
                return "norm"
        return None

    def _uses_of(self, scope_name: str, value: str) -> list[tuple[Operation, int]]:
        uses = self.consumers.get(scope_name)
        if uses is None:
            uses = self.consumers[scope_name] = _consumers(self.graph.scopes[scope_name])
        return uses.get(value, [])


def _normalised(scope: Scope) -> set[str]:
    """Operations whose results are 1 / sqrt(variance) or data that was normalised with it."""
    names: set[str] = set()
    for operation in scope.operations:
        reshaped = operation.op == "Reshape" and operation.inputs
        if (
            operation.op == "Rsqrt"
            or operation.op.startswith("FusedBatchNorm")
            or (reshaped and operation.inputs[0].split(":", 1)[0] in names)
        ):
            names.add(operation.name)
    return names


def _consumer(operation: Operation, place: int) -> str | None:
    """The kind that input `place` of `operation` belongs to; None where it says nothing."""
    kind = _CONSUMERS.get(operation.op)
    if kind in ("embedding", "recurrent", None):
        return None if kind == "embedding" and place != 0 else kind
    if kind == "norm":
        return kind if place > 0 else None
    # Kernels come second; what comes first is data, even where a variable was mixed into it.
    return kind if place == 1 else None


def _consumers(scope: Scope) -> dict[str, list[tuple[Operation, int]]]:
    """Uses by value; an input is written "node", "node:1" or "node:output:0"."""
    uses: dict[str, list[tuple[Operation, int]]] = {}
    for operation in scope.operations:
        for place, value in enumerate(operation.inputs):
            if not value.startswith("^"):
                uses.setdefault(value.split(":", 1)[0], []).append((operation, place))
    return uses
