"""The source's side: each tensor is taken by one rule, or left out by one that says why."""

from __future__ import annotations

from wtool.conversion.books import BOOKKEEPING, Books, Instance


def match_blocks(books: Books) -> tuple[list[Instance], list[str]]:
    """The layers of the source, and the labels of the blocks that met none."""
    instances: dict[tuple[int, frozenset[tuple[str, object]]], Instance] = {}
    unused = []
    for number, block in enumerate(books.mapping.blocks):
        met = False
        for part in block.parts:
            for index, template in enumerate(part.names.get(books.origin, ())):
                for tensor, values in books.matches(template):
                    met = True
                    if not books.claim(tensor.name, block.label):
                        continue
                    key = (number, frozenset(values.items()))
                    order = books.places[tensor.name]
                    instance = instances.setdefault(key, Instance(block, values, order))
                    instance.order = min(instance.order, order)
                    instance.found.setdefault(part.name, {})[index] = tensor
        if not met:
            unused.append(block.label)
    return list(instances.values()), unused


def drop_named(books: Books) -> None:
    """What the mapping ignores, knows as tied or makes anew is taken, and not given."""
    for ignored in books.mapping.ignored:
        if ignored.side == books.origin:
            for tensor, _ in books.matches(ignored.name):
                if books.claim(tensor.name, ignored.label):
                    books.leave("ignored", tensor, ignored.label, ignored.reason)
    for tied in books.mapping.ties:
        if tied.side == books.origin:
            for tensor, values in books.matches(tied.name):
                if books.claim(tensor.name, tied.label):
                    owner = tied.same_as.render(values)
                    books.leave("tied", tensor, tied.label, f"equal to '{owner}'")
                    if owner not in books.source.tensors:
                        books.fail(tensor.name, f"is tied to '{owner}', which is not there")
    for made in books.mapping.made:
        found = books.source.tensors.get(made.name_among(books.source.tensors))
        if made.side != books.origin or found is None:
            continue
        if books.claim(found.name, made.label):
            books.leave("dropped", found, made.label, made.reason)
            if made.values is None:
                books.aside.append(found.name)


def claim_bookkeeping(books: Books) -> None:
    """What the container keeps for itself is taken, and not given."""
    for name, tensor in books.source.tensors.items():
        if name not in books.claims and tensor.role == BOOKKEEPING:
            books.claim(name, "bookkeeping")
            books.leave("ignored", tensor, "bookkeeping", "kept by the container for itself")
