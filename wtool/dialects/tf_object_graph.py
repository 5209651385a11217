"""TensorFlow's object graph: which Python object a stored value belonged to, and the way to it.

An object-based checkpoint stores under each key the path by which the object was first reached,
which changes with whatever else was saved. The graph has all edges, so a better path can be found:
here, one that leads through the model and not through an optimizer that also lists the model's
weights.

Source: TensorFlow 2.21 `core/protobuf/trackable_object_graph.proto`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from wtool.encodings.protobuf import LENGTH, VARINT, expect, fields, signed, text
from wtool.errors import MalformedInput, UnsafeInput

# A model has about three nodes a variable; edges are what a node lists.
MAX_NODES = 500_000
MAX_EDGES = 2_000_000
MAX_DEPTH = 1000

# Ways in the order in which they are taken: the model itself, lists that only repeat it,
# optimizers.
PLAIN, REPEATED, OPTIMIZER = range(3)
# Keras keeps lists of variables and bookkeeping beside the model's own structure.
BOOKKEEPING_EDGES = frozenset((
    "keras_api", "metrics", "_metrics", "_compile_metrics", "compiled_metrics", "compiled_loss",
    "_loss_tracker", "_compile_loss",
))  # fmt: skip
REPEATING_EDGES = BOOKKEEPING_EDGES | frozenset((
    "_all_variables", "variables", "trainable_variables", "non_trainable_variables",
    "_trainable_variables", "_non_trainable_variables", "regularization_losses", "_tracker",
    "_layer_checkpoint_dependencies", "signatures",
))  # fmt: skip
OPTIMIZER_EDGES = frozenset(("optimizer", "_optimizer", "optimizers"))
# What every Keras optimizer lists, whatever it is called by the object that holds it.
_STEPS = frozenset(("iterations", "_iterations", "iter"))
_RATES = frozenset(("learning_rate", "_learning_rate", "lr"))


@dataclass(slots=True)
class Node:
    """One object. children: (node, local name). values: (attribute, full name, key) stored for it.

    slots: (variable's node, slot name, slot variable's node), where the object is an optimizer.
    """

    children: list[tuple[int, str]] = field(default_factory=list)
    values: list[tuple[str, str, str]] = field(default_factory=list)
    slots: list[tuple[int, str, int]] = field(default_factory=list)


@dataclass(slots=True)
class Place:
    """How a node was reached: from `parent` by `local_name`; `way` is the worst edge before it.

    depth: edges from the root. optimizer: the optimizer's node where the way leads through one.
    slot: name of the slot where the node is a slot variable; `parent` is then the variable it is
    for.
    """

    parent: int
    local_name: str
    depth: int
    way: int
    optimizer: int = -1
    slot: str = ""


def read_graph(data: bytes) -> list[Node]:
    """The nodes of a TrackableObjectGraph; node 0 is the root.

    Raises MalformedInput where the message is broken or an edge leads to no node, UnsafeInput where
    it is larger than any model.
    """
    spans = []
    for item in fields(data):
        if item[0] == 1:
            expect(item, LENGTH, "node of the object graph")
            spans.append((item[2], item[3]))
    if not spans:
        raise MalformedInput("object graph without nodes")
    if len(spans) > MAX_NODES:
        raise UnsafeInput(
            "object graph too large", expected=f"at most {MAX_NODES} nodes", found=len(spans)
        )
    nodes: list[Node] = []
    edges = 0
    for start, stop in spans:
        node = _read_node(data, start, stop, len(spans))
        edges += len(node.children) + len(node.values) + len(node.slots)
        if edges > MAX_EDGES:
            raise UnsafeInput("object graph too large", expected=f"at most {MAX_EDGES} edges")
        nodes.append(node)
    return nodes


def walk(nodes: list[Node]) -> dict[int, Place]:
    """Where each node is first reached from the root, breadth first, optimizers last.

    Nodes that nothing leads to are missing from the answer. Cycles are normal.
    """
    optimizers = {number for number, node in enumerate(nodes) if _is_optimizer(node)}
    places = {0: Place(-1, "", 0, PLAIN)}
    pending: list[list[tuple[int, int, str]]] = [[], [], []]
    queue = deque([0])
    for way in (PLAIN, REPEATED, OPTIMIZER):
        for parent, child, local_name in pending[way]:
            _reach(places, queue, (parent, child, local_name), way, optimizers)
        while queue:
            parent = queue.popleft()
            for child, local_name in nodes[parent].children:
                if child in places:
                    continue
                edge = _edge_way(child, local_name, optimizers)
                if edge > way:
                    pending[edge].append((parent, child, local_name))
                else:
                    _reach(places, queue, (parent, child, local_name), way, optimizers)
    _place_slots(nodes, places)
    return places


def node_path(places: dict[int, Place], number: int) -> tuple[str, ...]:
    """Local names from the root to a node; a slot's are those of its variable, then its own."""
    names: list[str] = []
    place = places[number]
    while place.parent >= 0:
        if place.slot:
            names += (place.slot, ".OPTIMIZER_SLOT")
        else:
            names.append(place.local_name)
        place = places[place.parent]
    return tuple(reversed(names))


def escape_name(local_name: str) -> str:
    """A local name as TensorFlow writes it into keys: `.` doubled, `/` as `.S`."""
    return local_name.replace(".", "..").replace("/", ".S")


def _reach(
    places: dict[int, Place],
    queue: deque[int],
    edge: tuple[int, int, str],
    way: int,
    optimizers: set[int],
) -> None:
    parent, child, local_name = edge
    if child in places:
        return
    above = places[parent]
    if above.depth >= MAX_DEPTH:
        raise UnsafeInput("object graph too deep", expected=f"at most {MAX_DEPTH} edges")
    optimizer = above.optimizer
    if optimizer < 0 and _edge_way(child, local_name, optimizers) == OPTIMIZER:
        optimizer = child
    places[child] = Place(parent, local_name, above.depth + 1, way, optimizer)
    queue.append(child)


def _place_slots(nodes: list[Node], places: dict[int, Place]) -> None:
    """Slot variables are no children of anything: they hang on the variable that they are for."""
    for number, node in enumerate(nodes):
        for original, slot_name, variable in node.slots:
            above = places.get(original)
            if above is not None and variable not in places:
                places[variable] = Place(
                    original, "", above.depth + 1, OPTIMIZER, number, slot_name or "slot"
                )


def _edge_way(child: int, local_name: str, optimizers: set[int]) -> int:
    if child in optimizers or local_name in OPTIMIZER_EDGES:
        return OPTIMIZER
    return REPEATED if local_name in REPEATING_EDGES else PLAIN


def _is_optimizer(node: Node) -> bool:
    names = {local_name for _, local_name in node.children}
    return bool(node.slots) or bool(names & _STEPS and names & _RATES)


def _read_node(data: bytes, start: int, stop: int, count: int) -> Node:
    node = Node()
    for item in fields(data, start, stop):
        number = item[0]
        if number > 3:
            continue
        expect(item, LENGTH, "part of a node of the object graph")
        if number == 1:
            child, local_name = 0, ""
            for inner in fields(data, item[2], item[3]):
                if inner[0] == 1:
                    child = _node_id(inner, count)
                elif inner[0] == 2:
                    expect(inner, LENGTH, "local name")
                    local_name = text(data, inner[2], inner[3])
            node.children.append((child, local_name))
        elif number == 2:
            node.values.append(_read_value(data, item[2], item[3]))
        else:
            ids, name = [0, 0], ""
            for inner in fields(data, item[2], item[3]):
                if inner[0] in (1, 3):
                    ids[inner[0] // 2] = _node_id(inner, count)
                elif inner[0] == 2:
                    expect(inner, LENGTH, "slot name")
                    name = text(data, inner[2], inner[3])
            node.slots.append((ids[0], name, ids[1]))
    return node


def _read_value(data: bytes, start: int, stop: int) -> tuple[str, str, str]:
    parts = ["", "", ""]
    for item in fields(data, start, stop):
        if item[0] <= 3:
            expect(item, LENGTH, "attribute of a node")
            parts[item[0] - 1] = text(data, item[2], item[3])
    return parts[0], parts[1], parts[2]


def _node_id(item: tuple[int, int, int, int], count: int) -> int:
    expect(item, VARINT, "node number")
    number = signed(item[2])
    if not 0 <= number < count:
        raise MalformedInput(
            "edge of the object graph leads to no node",
            expected=f"0 to {count - 1}",
            found=number,
        )
    return number
