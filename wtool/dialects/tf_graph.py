"""TensorFlow graphs, read as far as they say what each variable is used for.

A `.meta` file is a MetaGraphDef, `saved_model.pb` holds one or more. Of a graph, the operations
with their inputs are kept; of attributes, only the functions that an operation calls and the name
that a variable is shared under. Functions capture variables as their last arguments.

Source: TensorFlow 2.21 `core/protobuf/meta_graph.proto`, `saved_object_graph.proto`,
`core/framework/{graph,node_def,function}.proto`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wtool.encodings.protobuf import LENGTH, VARINT, Field, expect, fields, text, varints
from wtool.errors import UnsafeInput

# Beyond that a graph costs more time than what it says about layers is worth.
MAX_OPERATIONS = 500_000
VARIABLE_OPS = frozenset(("VarHandleOp", "VariableV2", "Variable"))
# Attributes that name a function, by where the operation's first argument goes.
CALLED = frozenset(("f", "body", "then_branch", "else_branch", "branches"))


@dataclass(slots=True)
class Operation:
    """One node. inputs: as written. calls: (attribute, function). variable: its name, or ""."""

    name: str
    op: str
    inputs: list[str]
    calls: list[tuple[str, str]]
    variable: str = ""


@dataclass(slots=True)
class Scope:
    """The graph, or the body of a function. arguments: of the function, in order."""

    operations: list[Operation] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Graph:
    """scopes: by function name, "" the graph itself. captured: function -> variables that it
    captures, as its last arguments; "" where a captured object is no variable.
    tensorflow_version: of the program that wrote it, "" where it does not say."""

    scopes: dict[str, Scope] = field(default_factory=lambda: {"": Scope()})
    captured: dict[str, list[str]] = field(default_factory=dict)
    operations: int = 0
    tensorflow_version: str = ""


def read_meta_graph(data: bytes) -> Graph:
    """The graph of a `.meta` file; raises where the bytes are not one."""
    graph = Graph()
    _read_meta(data, 0, len(data), graph)
    return graph


def read_saved_model(data: bytes) -> Graph:
    """The graphs of a `saved_model.pb`, taken together."""
    graph = Graph()
    for item in fields(data):
        if item[0] == 2:
            expect(item, LENGTH, "meta graph")
            _read_meta(data, item[2], item[3], graph)
    return graph


def _read_meta(data: bytes, start: int, stop: int, graph: Graph) -> None:
    for item in fields(data, start, stop):
        if item[0] == 1:
            expect(item, LENGTH, "description of a meta graph")
            graph.tensorflow_version = graph.tensorflow_version or _string(data, item, 5)
        elif item[0] == 2:
            expect(item, LENGTH, "graph")
            _read_graph(data, item, graph)
        elif item[0] == 7:
            expect(item, LENGTH, "object graph")
            _read_objects(data, item, graph)


def _read_graph(data: bytes, span: Field, graph: Graph) -> None:
    for item in fields(data, span[2], span[3]):
        if item[0] == 1:
            expect(item, LENGTH, "node of a graph")
            _add(graph, graph.scopes[""], data, item)
        elif item[0] == 2:
            expect(item, LENGTH, "library of functions")
            for inner in fields(data, item[2], item[3]):
                if inner[0] == 1:
                    expect(inner, LENGTH, "function")
                    _read_function(data, inner, graph)


def _read_function(data: bytes, span: Field, graph: Graph) -> None:
    name, scope = "", Scope()
    for item in fields(data, span[2], span[3]):
        if item[0] == 1:
            expect(item, LENGTH, "signature")
            for part in fields(data, item[2], item[3]):
                if part[0] == 1:
                    expect(part, LENGTH, "name of a function")
                    name = text(data, part[2], part[3])
                elif part[0] == 2:
                    expect(part, LENGTH, "argument of a function")
                    scope.arguments.append(_string(data, part, 1))
        elif item[0] == 3:
            expect(item, LENGTH, "node of a function")
            _add(graph, scope, data, item)
    graph.scopes.setdefault(name, scope)


def _add(graph: Graph, scope: Scope, data: bytes, span: Field) -> None:
    graph.operations += 1
    if graph.operations > MAX_OPERATIONS:
        raise UnsafeInput("graph too large", expected=f"at most {MAX_OPERATIONS} operations")
    operation = Operation("", "", [], [])
    attributes = []
    for item in fields(data, span[2], span[3]):
        if item[0] == 5:
            attributes.append(item)
        elif item[0] <= 3:
            expect(item, LENGTH, "part of a node")
            value = text(data, item[2], item[3])
            if item[0] == 1:
                operation.name = value
            elif item[0] == 2:
                operation.op = value
            else:
                operation.inputs.append(value)
    is_variable = operation.op in VARIABLE_OPS
    if is_variable:
        operation.variable = operation.name
    for item in attributes:
        expect(item, LENGTH, "attribute")
        _read_attribute(data, item, operation, is_variable)
    scope.operations.append(operation)


def _read_attribute(data: bytes, span: Field, operation: Operation, is_variable: bool) -> None:
    """Keep an attribute that names functions, and a variable's shared name."""
    key, value = "", None
    for item in fields(data, span[2], span[3]):
        expect(item, LENGTH, "attribute")
        if item[0] == 1:
            key = text(data, item[2], item[3])
        elif item[0] == 2:
            value = item
    if value is None or not (key in CALLED or (is_variable and key == "shared_name")):
        return
    for item in fields(data, value[2], value[3]):
        if item[0] == 10 and key in CALLED:
            expect(item, LENGTH, "function of an attribute")
            operation.calls.append((key, _string(data, item, 1)))
        elif item[0] == 1 and key == "branches":
            expect(item, LENGTH, "list of functions")
            operation.calls += (
                (key, _string(data, inner, 1))
                for inner in fields(data, item[2], item[3])
                if inner[0] == 9 and inner[1] == LENGTH
            )
        elif item[0] == 2 and is_variable and item[1] == LENGTH and item[3] > item[2]:
            operation.variable = text(data, item[2], item[3])


def _read_objects(data: bytes, span: Field, graph: Graph) -> None:
    """Variables by object number, and which of them each concrete function captures."""
    variables: list[str] = []
    functions: list[Field] = []
    for item in fields(data, span[2], span[3]):
        expect(item, LENGTH, "object of a saved model")
        if item[0] == 1:
            name = ""
            for part in fields(data, item[2], item[3]):
                if part[0] == 7:
                    expect(part, LENGTH, "variable of a saved model")
                    name = _string(data, part, 6)
            variables.append(name)
        elif item[0] == 2:
            functions.append(item)
    for function in functions:
        captured: list[str] = []
        for item in fields(data, function[2], function[3]):
            if item[0] != 2:
                continue
            expect(item, LENGTH, "concrete function")
            for part in fields(data, item[2], item[3]):
                if part[0] == 2 and part[1] in (VARINT, LENGTH):
                    for number in varints(data, part):
                        captured.append(variables[number] if number < len(variables) else "")
        graph.captured.setdefault(_string(data, function, 1), captured)


def _string(data: bytes, span: Field, number: int) -> str:
    """The string field `number` of a message; "" where it has none."""
    value = ""
    for item in fields(data, span[2], span[3]):
        if item[0] == number:
            expect(item, LENGTH, "name")
            value = text(data, item[2], item[3])
    return value
