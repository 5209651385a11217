"""Names of layers as words and numbers, by which the two frameworks may call one layer the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from wtool.conversion.name_laws import normal_form
from wtool.conversion.units import split_direction

if TYPE_CHECKING:
    from wtool.conversion.units import Unit

# Words and numbers of a name, in order.
Form = tuple[str, ...]


def forms_of(units: Mapping[str, Unit], form: Callable[[Unit], Form]) -> dict[Form, list[str]]:
    """Names without what all of them begin with, which names the model -> labels of their units.

    A name of which only numbers would be left keeps its words.
    """
    forms = {label: form(unit) for label, unit in units.items()}
    shared = len(os.path.commonprefix([list(words) for words in forms.values()]))
    found: dict[Form, list[str]] = {}
    for label, words in forms.items():
        rest = words[shared:] if len(forms) > 1 else words
        named = any(not word.isdigit() for word in rest)
        found.setdefault(rest if named else words, []).append(label)
    return found


def without_numbers(form: Form) -> Form:
    """The words of a name, with a mark for each number."""
    return tuple("#" if word.isdigit() else word for word in form)


def numbers_of(forms: Iterable[Form]) -> dict[Form, set[Form]]:
    """The words of names -> the names that have them, which differ in their numbers."""
    found: dict[Form, set[Form]] = {}
    for form in forms:
        found.setdefault(without_numbers(form), set()).add(form)
    return found


def torch_form(unit: Unit) -> Form:
    """Of a unit of a PyTorch checkpoint; a cell says its layer and its direction."""
    if not unit.cell:
        return normal_form(unit.path)
    layer = unit.cell.partition("_reverse")[0]
    number = "" if layer in ("", "_l0") else layer
    return (*normal_form(unit.path + number), "backward" if "_reverse" in unit.cell else "forward")


def keras_form(unit: Unit) -> Form:
    """Of a unit of a Keras or TensorFlow checkpoint; a cell says its direction."""
    if "recurrent_kernel" not in unit.members:
        return normal_form(unit.path)
    path, direction = split_direction(unit.path)
    return (*normal_form(path), direction or "forward")
