"""Writes a torch.distributed checkpoint from several processes; arguments: folder, ranks."""

from __future__ import annotations

import os
import sys
import tempfile

import torch
import torch.distributed
import torch.distributed.checkpoint as dcp
import torch.multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor


def model_values() -> dict[str, torch.Tensor]:
    """The whole tensors that are to be sharded."""
    return {
        "rows": torch.arange(35.0).reshape(7, 5),
        "columns": torch.arange(35.0).reshape(7, 5).to(torch.bfloat16),
        "few": torch.arange(3, dtype=torch.int32).reshape(1, 3),
        "whole": torch.arange(4),
    }


def write(rank: int, ranks: int, folder: str, rendezvous: str) -> None:
    """One rank's part."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=ranks
    )
    mesh = init_device_mesh("cpu", (ranks,))
    placements = {"rows": Shard(0), "columns": Shard(1), "few": Shard(0), "whole": Replicate()}
    model = {
        name: distribute_tensor(value, mesh, [placements[name]])
        for name, value in model_values().items()
    }
    moment = distribute_tensor(2 * model_values()["rows"], mesh, [Shard(0)])
    state = {
        "model": model,
        "optimizer": {
            "state": {"rows": {"exp_avg": moment, "step": torch.tensor(3.0)}},
            "param_groups": [{"lr": 0.1, "params": ["rows"]}],
        },
        "epoch": 5,
        "list": [torch.zeros(2), "text"],
    }
    dcp.save(state, checkpoint_id=folder)
    if rank == 0:
        torch.save({"rows": model["rows"], "whole": model["whole"]}, folder + ".pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    target, count = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as meeting:
        torch.multiprocessing.spawn(
            write, (count, target, os.path.join(meeting, "ranks")), nprocs=count
        )
