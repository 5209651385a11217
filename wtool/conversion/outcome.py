"""What a conversion came to: each step with its evidence, and everything that is left open."""

from __future__ import annotations

from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass

from wtool.checkpoint import Checkpoint, Tensor
from wtool.conversion.rules import Mapping, SideName, other
from wtool.errors import UnsupportedError, counted, shorten
from wtool.report import Column, Report

COLUMNS = (
    Column("target"),
    Column("source"),
    Column("status"),
    Column("operations"),
    Column("shape"),
    Column("lossy"),
    Column("evidence"),
)
NAMED_AT_MOST = 8


@dataclass(frozen=True)
class Step:
    """One piece of the conversion: the tensors that it takes, and those that it gives.

    status: "converted"; "dropped", "tied" or "ignored" (nothing is given); "made", "tied" or "kept"
    (nothing is taken); "sidecar" (given from what an earlier conversion set aside).
    lossy: what is lost. reason: why tensors are left out or made.
    doubt: why the mapping's word is all that says how the tensors are laid out; "" where more does.
    """

    status: str
    sources: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]
    operations: str
    evidence: str
    label: str
    lossy: str = ""
    reason: str = ""
    doubt: str = ""

    @property
    def belief(self) -> str:
        """The evidence, why, and what speaks for nothing else."""
        alone = f"its word alone: {self.doubt}" if self.doubt else ""
        return ": ".join(text for text in (self.evidence, self.reason, alone) if text)


@dataclass(frozen=True)
class Open:
    """One thing that stops the conversion. tensor: of the source or the target, "" for none."""

    tensor: str
    problem: str
    label: str = ""

    def __str__(self) -> str:
        where = f" ({self.label})" if self.label else ""
        name = f"'{shorten(self.tensor, 120)}' " if self.tensor else ""
        return f"{name}{self.problem}{where}"


@dataclass(frozen=True)
class Outcome:
    """A conversion of `source` to side `to` of `mapping`, planned: nothing is written.

    open: empty exactly if both sides are covered. unused: rules that nothing of the source met.
    sidecar_names: tensors of the source that the target cannot hold as they are.
    """

    source: Checkpoint
    mapping: Mapping
    to: SideName
    steps: tuple[Step, ...]
    open: tuple[Open, ...]
    unused: tuple[str, ...] = ()
    sidecar_names: tuple[str, ...] = ()
    verified: bool = False

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The target's tensors by name, lazy; incomplete where something is open."""
        return {tensor.name: tensor for step in self.steps for tensor in step.targets}

    @property
    def lossy(self) -> tuple[str, ...]:
        """Names of the source whose exact values the target does not hold."""
        return tuple(t.name for step in self.steps if step.lossy for t in step.sources)

    def refuse(self) -> None:
        """UnsupportedError that lists what is open, where anything is."""
        if not self.open:
            return
        shown = "; ".join(str(item) for item in self.open[:NAMED_AT_MOST])
        more = len(self.open) - NAMED_AT_MOST
        raise UnsupportedError(
            f"mapping '{self.mapping.name}' leaves {len(self.open)} open: {shown}"
            + (f"; and {more} more" if more > 0 else ""),
            path=self.source.path,
            hint="--explain lists all",
        )

    def checkpoint(self) -> Checkpoint:
        """The target; UnsupportedError where something is open."""
        self.refuse()
        return self.unchecked()

    def unchecked(self) -> Checkpoint:
        """The target as far as it goes: for checking the way back, never for writing."""
        kept = {n: text for n, text in self.source.metadata.items() if n not in self.source.tensors}
        kept.pop("format", None)
        return Checkpoint(
            self.source.path,
            f"{self.mapping.sides[self.to].framework} by '{self.mapping.name}'",
            self.tensors,
            metadata=kept,
            extras=self.source.extras,
            notes=self.source.notes,
            files=self.source.files,
        )

    def metadata(self) -> dict[str, str]:
        """What a container that holds text should keep: the mapping and its facts."""
        facts = {"wtool.mapping": self.mapping.name}
        if self.mapping.notes:
            facts["wtool.notes"] = "\n".join(self.mapping.notes)
        if self.lossy:
            facts["wtool.lossy"] = ", ".join(sorted({s.lossy for s in self.steps if s.lossy}))
        return facts

    def sidecar(self) -> Checkpoint | None:
        """Tensors to set aside for an exact way back, None where nothing is lost."""
        if not self.sidecar_names:
            return None
        tensors = {name: self.source.tensors[name] for name in self.sidecar_names}
        side = other(self.to)
        facts = {"wtool.sidecar": self.mapping.name, "wtool.side": side}
        return Checkpoint(self.source.path, "sidecar", tensors, metadata=facts)

    def counts(self) -> dict[str, int]:
        """Elements: taken, given, and what happened to the rest; they balance."""
        totals = {"source_elements": sum(t.count for t in self.source), "target_elements": 0}
        for step in self.steps:
            given = sum(t.count for t in step.targets)
            taken = sum(t.count for t in step.sources)
            totals["target_elements"] += given
            key = f"{step.status}_elements" if not step.lossy else "lossy_elements"
            totals[key] = totals.get(key, 0) + (taken or given)
        return totals

    def report(self, command: str = "convert") -> Report:
        """The whole coverage: every step, then what is open."""
        rows: list[Dict[str, object]] = []
        for step in self.steps:
            rows.append(
                {
                    "target": _names(step.targets) or None,
                    "source": _names(step.sources) or None,
                    "status": step.status,
                    "operations": step.operations or None,
                    "shape": [list(t.shape) for t in step.targets] if step.targets else None,
                    "lossy": step.lossy or None,
                    "evidence": step.belief,
                }
            )
        for item in self.open:
            rows.append(
                {
                    "source": item.tensor or None,
                    "status": "OPEN",
                    "evidence": f"{item.problem}{f' ({item.label})' if item.label else ''}",
                }
            )
        side = self.mapping.sides[self.to].framework
        state = "complete" if not self.open else f"{len(self.open)} open, nothing is written"
        checked = ", the way back is bit-equal" if self.verified and not self.open else ""
        lossy = f", {counted(len(self.lossy), 'tensor')} lossy as declared" if self.lossy else ""
        return Report(
            command=command,
            columns=COLUMNS,
            rows=rows,
            totals={
                "source_tensors": len(self.source),
                "target_tensors": len(self.tensors),
                "open": len(self.open),
                "lossy": len(self.lossy),
                **self.counts(),
            },
            ok=not self.open,
            notes=[*self.mapping.notes, *self._doubt_notes(), *self._unused_notes()],
            sources=[self.source.path],
            footer=[
                f"{self.mapping.name}: {counted(len(self.source), 'tensor')} -> "
                f"{len(self.tensors)} of {side}: {state}{checked}{lossy}"
            ],
        )

    def _doubt_notes(self) -> list[str]:
        """What only the mapping's word decides: each reason with its tensors."""
        by_reason: dict[str, list[str]] = {}
        for step in self.steps:
            if step.doubt:
                by_reason.setdefault(step.doubt, []).append(_names(step.sources))
        notes = []
        for reason, names in by_reason.items():
            shown = ", ".join(shorten(name, 100) for name in names[:NAMED_AT_MOST])
            more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
            notes.append(f"the mapping's word alone decides {shown}{more}: {reason}")
        return notes

    def _unused_notes(self) -> list[str]:
        if not self.unused:
            return []
        shown = ", ".join(self.unused[:NAMED_AT_MOST])
        return [f"{counted(len(self.unused), 'rule')} met nothing: {shown}"]


def _names(tensors: Sequence[Tensor]) -> str:
    return ", ".join(tensor.name for tensor in tensors)
