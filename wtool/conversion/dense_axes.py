"""Which dense layers of a PyTorch file are stored (in, out), as GPT-2's Conv1D, and not (out, in).

A bias is as long as the outputs, which tells of every matrix that is not square. A square one is as
its like, the layers of the same last name; in a model that has both, or under GPT-2's names without
such a proof, it is left open.
"""

from __future__ import annotations

from collections.abc import Sequence

from wtool.conversion.units import Unit

# Names of GPT-2's dense layers, which PyTorch stores (in, out).
CONV1D_NAMES = ("c_attn", "c_fc", "c_proj", "q_attn")
OPEN = "the same layer, but a square matrix may be GPT-2's Conv1D, which is stored (in, out)"


def stored_in_out(units: Sequence[Unit]) -> dict[str, bool | None]:
    """Label of a dense layer -> whether its matrix is (in, out); None where nothing tells."""
    proofs: dict[str, set[bool]] = {}
    squares: list[Unit] = []
    found: dict[str, bool | None] = {}
    for unit in units:
        if not any(kind == "linear" for kind, _ in unit.traits) or "weight" not in unit.members:
            continue
        rows, columns = unit.members["weight"].shape
        if rows == columns:
            squares.append(unit)
        elif "bias" in unit.members:
            found[unit.label] = unit.members["bias"].shape == (columns,)
            proofs.setdefault(_last(unit), set()).add(found[unit.label] is True)
    named = {is_in_out for name, how in proofs.items() if name in CONV1D_NAMES for is_in_out in how}
    mixed = any(True in how for how in proofs.values())
    for unit in squares:
        like = proofs.get(_last(unit), set())
        if not like and _last(unit) in CONV1D_NAMES:
            like = named or {True, False}
        elif not like:
            like = {True, False} if mixed else {False}
        found[unit.label] = next(iter(like)) if len(like) == 1 else None
    return found


def _last(unit: Unit) -> str:
    """The last component of the layer's path that is no number."""
    components = [part for part in unit.path.split(".") if not part.isdigit()]
    return components[-1] if components else ""
