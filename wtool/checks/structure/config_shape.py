"""Sizes in `config.json` are not those of the tensors.

Why it is bad: the model cannot be built from its own configuration: loading fails, or drops the
tensors that do not fit.

Example: `vocab_size` is 50,265 and `embed_tokens.weight` has 50,257 rows.

How to mend it: publish the configuration that the weights were trained with; resize the embedding
if tokens were added.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from wtool.checks import Finding, Rule
from wtool.checks.structure.blocks import families
from wtool.checks.subject import Subject

if TYPE_CHECKING:
    from wtool.checkpoint import Tensor

_EMBEDDING = re.compile(
    r"(.*\.)?(embed_tokens|word_embeddings|wte|shared|tok_embeddings|embed_in)\.weight"
)
_WIDTHS = ("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "word_embed_proj_dim",
           "emb_dim", "d_embed")  # fmt: skip
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_STACKS = re.compile(r"(.*\.)?(layers|layer|h|blocks|block)\.")


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for vocabulary, width and depth that contradict the tensors."""
    config = subject.config
    embedding = find_embedding(subject)
    if embedding is not None:
        rows, columns = embedding.shape
        words = config.get("vocab_size")
        if type(words) is int and words > rows:
            yield Finding(
                f"config.json says vocab_size {words:,}, the embedding has {rows:,} rows",
                embedding.name,
                value=rows,
            )
        widths = {config[key] for key in _WIDTHS if type(config.get(key)) is int}
        if widths and columns not in widths:
            yield Finding(
                f"config.json says {_said(config, _WIDTHS)}, the embedding has {columns:,} columns",
                embedding.name,
                value=columns,
                severity="warning",
            )
    depth = next((config[key] for key in _DEPTHS if type(config.get(key)) is int), None)
    stacks = [f for f in families(subject) if f.plain and _STACKS.fullmatch(f.prefix)]
    outer = [f for f in stacks if not any(o is not f and f.prefix.startswith(o.prefix)
                                          for o in stacks)]  # fmt: skip
    if depth is not None and len(outer) == 1 and len(outer[0].below) != depth:
        yield Finding(
            f"config.json says {_said(config, _DEPTHS)}, '{outer[0].prefix}*' has "
            f"{len(outer[0].below)} blocks",
            value=len(outer[0].below),
            severity="warning",
        )


def find_embedding(subject: Subject) -> Tensor | None:
    """The embedding of words, where a tensor has one of its usual names and two dimensions."""
    for name, tensor in subject.checkpoint.tensors.items():
        if _EMBEDDING.fullmatch(name) and len(tensor.shape) == 2:
            return tensor
    return None


def _said(config: dict[str, object], keys: tuple[str, ...]) -> str:
    return ", ".join(f"{key} {config[key]}" for key in keys if type(config.get(key)) is int)


RULE = Rule(
    "WT030",
    "config-shape",
    "error",
    "publish the configuration that the weights were trained with",
    find,
    __doc__,
)
