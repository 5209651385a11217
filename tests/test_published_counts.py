"""`wtool count` gives the numbers of parameters that torchvision publishes with its models."""

from __future__ import annotations

import pytest
import torch
from torchvision_on_cpu import load_torchvision

import wtool

torchvision = load_torchvision()

# As published, so that the table does not rest on one library's metadata alone.
PUBLISHED = {
    "resnet50": 25_557_032,
    "vgg16": 138_357_544,
    "mobilenet_v2": 3_504_872,
    "densenet121": 7_978_856,
    "alexnet": 61_100_840,
    "resnet18": 11_689_512,
}
FROM_METADATA = (
    "resnext50_32x4d",
    "wide_resnet50_2",
    "vgg11_bn",
    "squeezenet1_0",
    "shufflenet_v2_x1_0",
    "mobilenet_v3_large",
    "mnasnet1_0",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "densenet201",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
    "swin_v2_t",
    "maxvit_t",
    "inception_v3",
)


@pytest.mark.parametrize("name", [*PUBLISHED, *FROM_METADATA])
def test_count_gives_the_published_number_of_parameters(name, tmp_path):
    weights = torchvision.models.get_model_weights(name).DEFAULT
    published = PUBLISHED.get(name, weights.meta["num_params"])
    assert published == weights.meta["num_params"]
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    state = {
        key: torch.empty(value.shape, dtype=value.dtype)
        for key, value in model.state_dict().items()
    }
    path = tmp_path / f"{name}.pth"
    # The values are left out: a sparse file of the right size, written in no time.
    with torch.serialization.skip_data():
        torch.save(state, path)
    totals = wtool.count(wtool.open(path)).totals
    assert totals["parameters"] == published
    learned = {key for key, _ in model.named_parameters()}
    assert totals["buffers"] == sum(v.numel() for k, v in state.items() if k not in learned)
    assert totals["other"] == 0
    assert totals["tensors"] == len(state)
