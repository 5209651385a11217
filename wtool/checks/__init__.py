"""The rules of `wtool check`: one file each, beginning with its own documentation.

A rule file holds a docstring (what is found, why it is bad, an example, how to mend it), a function
from a Subject to findings, and `RULE`. The folders are the groups: values, structure, files,
policies. Codes never change their meaning; a rule that is dropped leaves its code unused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wtool.checks.subject import Subject

# From harmless to fatal. A note is a remark: it never makes a check fail.
SEVERITIES = ("note", "warning", "error")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a rule found.

    message: what is wrong, with the numbers; the rule's `mend` is appended to it.
    tensor, index, value: where in the model; file: which file of several, the model's where None.
    severity: one of SEVERITIES where it differs from the rule's own.
    """

    message: str
    tensor: str | None = None
    index: tuple[int, ...] | None = None
    value: Any = None
    file: str | None = None
    severity: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its stable code, its name, how bad what it finds is, and how it finds it.

    mend: what to do next, in a few words. text: the documentation, first line the title.
    sums_bytes: whether `find` asks for the checksums of all bytes.
    """

    code: str
    name: str
    severity: str
    mend: str
    find: Callable[[Subject], Iterable[Finding]]
    text: str
    sums_bytes: bool = False

    @property
    def title(self) -> str:
        """What is found, in one sentence."""
        return self.text.strip().splitlines()[0]


# In the order of their codes.
_MODULES = (
    "values.nan",
    "values.infinity",
    "values.running_variance",
    "values.all_zero",
    "values.constant",
    "values.scale",
    "values.half_overflow",
    "values.half_vanish",
    "values.subnormal",
    "values.dead_units",
    "values.duplicate_units",
    "values.fresh",
    "values.uninitialised",
    "values.untied_copies",
    "values.saturated",
    "structure.optimizer_state",
    "structure.ema_copy",
    "structure.leftover_prefix",
    "structure.missing_sibling",
    "structure.layer_gap",
    "structure.float_buffer",
    "structure.mixed_dtypes",
    "structure.index_totals",
    "structure.unnamed_in_index",
    "structure.config_tie",
    "structure.config_shape",
    "structure.no_values",
    "files.refused_global",
    "files.unknown_object",
    "files.absolute_path",
    "files.personal_name",
    "files.unreferenced_storage",
    "files.wasted_bytes",
    "files.trailing_bytes",
    "files.wrong_checksum",
    "files.missing_checksum",
    "files.unaligned",
    "files.confusable_names",
    "files.legacy_container",
    "files.not_deterministic",
    "files.file_size",
    "files.sharding",
    "files.twins_differ",
    "policies.container",
    "policies.dtype",
    "policies.limits",
    "policies.parameter_count",
    "policies.required_metadata",
    "policies.required_tensors",
    "policies.forbidden_tensors",
    "policies.manifest",
)


@cache
def rules() -> tuple[Rule, ...]:
    """Every rule, in the order of their codes."""
    return tuple(import_module(f"wtool.checks.{module}").RULE for module in _MODULES)
