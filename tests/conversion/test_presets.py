"""Presets are chosen by what they cover, and by nothing else."""

from __future__ import annotations

import pytest
from model_zoo import FIRST_PAIRS, PAIRS, keras_rows, make_checkpoint, torch_rows

from wtool.conversion.presets import find_preset, load_preset, preset_names, presets_for
from wtool.errors import UsageError


def pair(name: str) -> tuple[list, list]:
    targets = keras_rows(tuple(PAIRS[n] for n in FIRST_PAIRS))
    return list(torch_rows(FIRST_PAIRS)[name]), list(targets[PAIRS[name]])


@pytest.mark.slow
def test_every_size_of_every_family_is_covered_by_one_preset() -> None:
    sources, targets = torch_rows(tuple(PAIRS)), keras_rows(tuple(PAIRS.values()))
    for name, other in PAIRS.items():
        a = make_checkpoint(sources[name], "torch-zip")
        b = make_checkpoint(targets[other], "keras_weights_h5")
        preset = find_preset(a, b)
        assert preset is not None, name
        assert [p.name for p in presets_for(a, "keras")] == [preset.name]
        assert [p.name for p in presets_for(b, "torch")] == [preset.name]


@pytest.mark.parametrize("name", FIRST_PAIRS)
def test_one_tensor_too_many_or_too_few_and_no_preset_fits(name: str) -> None:
    source, target = pair(name)
    b = make_checkpoint(target, "keras_weights_h5")
    assert find_preset(make_checkpoint(source, "torch-zip"), b) is not None
    extra = [*source, ("head.weight", (3, 3), "")]
    assert find_preset(make_checkpoint(extra, "torch-zip"), b) is None
    lost = next(row for row in source if row[0].endswith(("running_var", "features.0.bias")))
    fewer = make_checkpoint([row for row in source if row != lost], "torch-zip")
    assert find_preset(fewer, b) is None
    assert not presets_for(fewer, "keras") or name == "vgg16"
    target = make_checkpoint(target[:-1], "keras_weights_h5")
    assert find_preset(make_checkpoint(source, "torch-zip"), target) is None


def test_an_unknown_preset_is_refused_with_the_list() -> None:
    with pytest.raises(UsageError, match="torchvision-resnet"):
        load_preset("resnet")


def test_presets_say_what_they_are_for_and_where_models_differ() -> None:
    for name in preset_names():
        preset = load_preset(name)
        assert preset.name == name
        assert "<->" in preset.about
        assert preset.notes
