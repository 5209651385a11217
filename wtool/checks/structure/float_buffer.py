"""A buffer that counts or indexes is stored in floating point.

Why it is bad: a cast caught what is no weight. An index of type float fails at run time; in float16
counts above 2,048 and positions are wrong.

Example: `embeddings.position_ids` is float16 instead of int64.

How to mend it: cast again and leave integers alone (`wtool cast` does).
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.subject import Subject
from wtool.layers.names import split_leaf

# Names that stand for integers in every library that uses them.
INTEGERS = frozenset(
    (
        "num_batches_tracked",
        "position_ids",
        "token_type_ids",
        "relative_position_index",
        "relative_position_bucket",
        "attention_bias_idxs",
        "g_idx",
        "save_counter",
        "global_step",
    )
)


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each buffer of an integer's name and a floating type."""
    for tensor in subject.checkpoint:
        if split_leaf(tensor.name)[1] in INTEGERS and tensor.dtype.kind == "float":
            yield Finding(
                f"is stored as {tensor.dtype}, and stands for integers",
                tensor.name,
                value=tensor.dtype.name,
            )


RULE = Rule(
    "WT025",
    "float-buffer",
    "warning",
    "cast again and leave integers alone",
    find,
    __doc__,
)
