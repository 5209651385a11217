"""The file holds names of users or hosts.

Why it is bad: it publishes who trained where: account names, mail addresses, machine names.

Example: `hyper_parameters.hostname` is `gpu-node-17`; `args.out` lies in the home of `alice`.

How to mend it: save without the arguments of the run; `wtool convert --drop-extras` leaves out
everything that is not a tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from wtool.checkpoint import Checkpoint
from wtool.checks import Finding, Rule
from wtool.checks.files.containers import as_text, extra_nodes, texts
from wtool.checks.subject import Subject
from wtool.encodings.pickle_nodes import Dict

_HOME = re.compile(
    r"(?<![\w.:/-])(?:/home/|/Users/|[A-Za-z]:\\(?:Users|Documents and Settings)\\)([\w.-]{1,64})"
)
_MAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+\b")
_KEY = re.compile(
    r"(?:^|[._])(?:user|username|user_name|login|host|hostname|host_name|nodename|machine|author_email|"
    r"email|wandb_entity)$",
    re.IGNORECASE,
)  # fmt: skip


def find(subject: Subject) -> Iterator[Finding]:
    """A finding for each entry that names a user or a host."""
    for path, checkpoint in subject.parts():
        seen: set[str] = set()
        for key, text in _entries(checkpoint):
            if key in seen:
                continue
            home, mail = _HOME.search(text), _MAIL.search(text)
            name = home[1] if home else mail[0] if mail else ""
            if not name and _KEY.search(key) and text.strip() and len(text) <= 100:
                name = text
            if name:
                seen.add(key)
                yield Finding(f"'{key}' names {name}", value=name, file=path)


def _entries(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """Texts by place; inside a value, dictionary entries by their own key too."""
    yield from texts(checkpoint)
    for key, node in extra_nodes(checkpoint):
        if isinstance(node, Dict):
            for name, inner in node.items():
                text = as_text(inner)
                if text and isinstance(name, str):
                    yield f"{key}.{name}", text


RULE = Rule(
    "WT043",
    "personal-name",
    "warning",
    "save without the run's arguments, or use wtool convert --drop-extras",
    find,
    __doc__,
)
