"""What a Keras configuration from anywhere says of orders: nothing where it is not Keras's own."""

from __future__ import annotations

import copy
import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wtool.dialects.keras_orders import Orders, orders_of

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
JUNK = [
    None, True, -1, 0, 1, 10**30, 1.5, "", "Flatten", "Dense", "Conv2D", "Functional", "Reshape",
    "InputLayer", "GRU", "channels_first", [], [1], [None, 4, 4, 4], [None], [[]], {},
    {"config": {}}, ["flatten", 0, 0], [["flatten", 0, 0, {}]], [[1, 1], [1]],
]  # fmt: skip


def configuration(name: str) -> Any:
    with zipfile.ZipFile(FIXTURES / f"{name}.keras") as archive:
        return json.loads(archive.read("config.json"))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else ()
    for key, below in enumerate(value) if isinstance(value, list) else items:
        yield (*path, key)
        yield from places(below, (*path, key))


def test_the_digits_cnn_flattens_pictures_of_16_channels() -> None:
    orders = orders_of(configuration("digits-cnn"))
    assert orders.flattened == {"fc1": (16, 4, 4), "fc2": ()}
    assert orders.unflattened == {"fc1": (), "fc2": ()}


@pytest.mark.parametrize("name", ["digits-cnn", "digits-transformer", "topics-rnn"])
def test_a_damaged_configuration_is_no_error(name: str) -> None:
    whole = configuration(name)
    found = list(places(whole))
    for seed in range(400):
        chance = random.Random(seed)
        config = copy.deepcopy(whole)
        for path in sorted(chance.sample(found, 3), key=len, reverse=True):
            owner = config
            for key in path[:-1]:
                owner = owner[key]
            owner[path[-1]] = copy.deepcopy(chance.choice(JUNK))
        assert isinstance(orders_of(config), Orders)


def model(layers: list[Any], last: str) -> Any:
    return {
        "class_name": "Functional",
        "config": {
            "name": last,
            "layers": layers,
            "input_layers": [["in", 0, 0]],
            "output_layers": [[last, 0, 0]],
        },
    }


def layer(name: str, class_name: str, config: Any, inputs: list[Any]) -> Any:
    nodes = [[[source, call, 0, {}]] for source, call in inputs]
    return {"class_name": class_name, "name": name, "config": config, "inbound_nodes": nodes}


def test_models_that_call_models_many_times_are_given_up() -> None:
    entry = layer("in", "InputLayer", {"batch_input_shape": [None, 4]}, [])
    inner = model([entry, layer("d", "Dense", {"name": "d", "units": 4}, [("in", 0)])], "d")
    for depth in range(40):
        name = f"m{depth}"
        nodes = [("in", 0), (name, 0)]
        below = layer(name, "Functional", {**inner["config"], "name": name}, nodes)
        inner = model([entry, below], name)
    assert orders_of(inner) == Orders()


def test_a_reshape_to_nothing_is_no_picture() -> None:
    config = model(
        [
            layer("in", "InputLayer", {"batch_input_shape": [None, 4]}, []),
            layer("d", "Dense", {"name": "d", "units": 4}, [("in", 0)]),
            layer("r", "Reshape", {"name": "r", "target_shape": []}, [("d", 0)]),
            layer("c", "Conv2D", {"name": "c", "filters": 4}, [("r", 0)]),
        ],
        "c",
    )
    assert orders_of(config).unflattened == {"d": None}
