"""What a mapping is made of: sides, blocks of parts, ties, names left out, names made."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping as Dict
from dataclasses import dataclass, field
from typing import Literal

from wtool.conversion.operation_text import Constant
from wtool.conversion.operations import Operation
from wtool.conversion.templates import Template

SideName = Literal["a", "b"]
# Framework -> separator of its names. "keras" is Keras 3, "tf_keras" Keras 2, "tf1" TF1's cells.
FRAMEWORKS = {"torch": ".", "keras": "/", "tf_keras": "/", "tensorflow": "/", "tf1": "/"}


def other(side: SideName) -> SideName:
    """The opposite side."""
    return "b" if side == "a" else "a"


@dataclass(frozen=True)
class Side:
    """One side of a mapping: its framework, one of FRAMEWORKS, and what joins its names."""

    framework: str
    separator: str

    @property
    def is_torch(self) -> bool:
        """Whether names and layouts are PyTorch's."""
        return self.framework == "torch"


@dataclass(frozen=True)
class Part:
    """Tensors of one side that become tensors of the other: a weight, a bias, three projections.

    names: templates by side; all use the block's variables. steps: operations towards a side, None
    where there is no way. lossy: what is lost on the way to `lossy_to`.
    required: a layer without it is incomplete. only: the one side that has it; `fill` is the value
    that it must hold there, None for a value that nothing depends on (a counter, made as 0).
    like: (part, axis): a filled vector is as long as that axis in the layout of the block's left
    side; axis None: it has that part's whole shape.
    """

    name: str
    names: Dict[SideName, tuple[Template, ...]]
    steps: Dict[SideName, tuple[Operation, ...] | None]
    required: bool = True
    only: SideName | None = None
    fill: float | None = None
    like: tuple[str, int | None] | None = None

    def lossy(self, to: SideName) -> str:
        """What is lost on the way to side `to`, as names joined by commas; "" for nothing."""
        steps = self.steps.get(to) or ()
        return ", ".join(step.lossy for step in steps if step.lossy)


@dataclass(frozen=True)
class Block:
    """One [[layer]] or [[rule]]: parts that belong together for each set of variables.

    label: what an error calls it, with the line. evidence: why it is believed.
    left: the side whose layout the axes of `lengths` and of the parts' `like` count in.
    lengths: (part, axis, other part): the size of a part's axis is the length of the other.
    chw: of the pictures whose flattened order a layer's vectors are in; () for none.
    """

    label: str
    kind: str
    parts: tuple[Part, ...]
    evidence: str = "mapping"
    lengths: tuple[tuple[str, int, str], ...] = ()
    left: SideName = "a"
    chw: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tied:
    """A name of one side that must hold the values of another; it is dropped and made again.

    when: the name of a tensor without which the side has no such tie; "" for always.
    """

    label: str
    side: SideName
    name: Template
    same_as: Template
    when: str = ""


@dataclass(frozen=True)
class Ignored:
    """Names of one side that are left out, for a stated reason."""

    label: str
    side: SideName
    name: Template
    reason: str


@dataclass(frozen=True)
class Made:
    """A tensor that one side has and the other cannot give: a constant, or the template's own.

    values: one number for all elements or one each; None: taken from the template.
    also: other names that a file may have for it; it is made under the first where none is known.
    """

    label: str
    side: SideName
    name: str
    reason: str
    dtype: str = "float32"
    shape: tuple[int, ...] = ()
    values: tuple[float, ...] | None = None
    also: Template | None = None

    def names(self, name: str) -> bool:
        """Whether a tensor of that name is the one."""
        return name == self.name or (self.also is not None and self.also.match(name) is not None)

    def name_among(self, names: Iterable[str]) -> str:
        """What it is called in a file of these names: the one that fits, else its first name."""
        if self.also is None:
            return self.name
        found = [name for name in names if self.names(name)]
        return found[0] if len(found) == 1 else self.name


@dataclass(frozen=True)
class Mapping:
    """A whole mapping between side a and side b, checked to work in both directions."""

    name: str
    sides: Dict[SideName, Side]
    blocks: tuple[Block, ...]
    ties: tuple[Tied, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    made: tuple[Made, ...] = ()
    notes: tuple[str, ...] = ()
    constants: Dict[str, Constant] = field(default_factory=dict)
    path: str = ""
    about: str = ""

    def side_of(self, framework: str) -> SideName | None:
        """The one side that is of the framework: "torch", "keras" or "tensorflow"; else None."""
        wanted = framework == "torch"
        sides: list[SideName] = [s for s in ("a", "b") if self.sides[s].is_torch == wanted]
        return sides[0] if len(sides) == 1 else None
