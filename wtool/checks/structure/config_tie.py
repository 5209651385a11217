"""Output and input embeddings are not tied as `config.json` says.

Why it is bad: with `tie_word_embeddings` the loader throws the stored head away and uses the
embedding: if the head was trained apart, the model is another one. Without it a missing head is
filled with random values.

Example: `tie_word_embeddings` is true, and `lm_head.weight` differs from `embed_tokens.weight`.

How to mend it: set `tie_word_embeddings` to what was trained, or save the tensor that belongs
there.
"""

from __future__ import annotations

from collections.abc import Iterator

from wtool.checks import Finding, Rule
from wtool.checks.structure.config_shape import find_embedding
from wtool.checks.subject import Subject
from wtool.checks.values.untied_copies import equal

_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
_WITH_HEAD = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def find(subject: Subject) -> Iterator[Finding]:
    """A finding where the head contradicts the configuration."""
    tied = subject.config.get("tie_word_embeddings")
    tensors = subject.checkpoint.tensors
    embedding = find_embedding(subject)
    if type(tied) is not bool or embedding is None:
        return
    head = next((t for n, t in tensors.items() if n.endswith(_HEADS) and t.role == "weight"), None)
    if tied and head is not None and head.shape == embedding.shape:
        same = head.storage == embedding.storage or (
            head.dtype is embedding.dtype and equal(head, embedding)
        )
        if not same:
            yield Finding(
                f"config.json ties it to '{embedding.name}', and its values differ", head.name
            )
    kinds = subject.config.get("architectures")
    kind = str(kinds[0]) if type(kinds) is list and kinds else ""
    if not tied and head is None and kind.endswith(_WITH_HEAD):
        yield Finding(
            "config.json says that the head is not tied, and there is none",
            embedding.name,
            severity="warning",
        )


RULE = Rule(
    "WT029",
    "config-tie",
    "error",
    "set tie_word_embeddings to what was trained, or save the right head",
    find,
    __doc__,
)
