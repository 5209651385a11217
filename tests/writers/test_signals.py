"""What a signal leaves that comes between any two steps of a save: all of it, or nothing."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
from test_faults import CONTAINERS, listing
from writer_models import model

from wtool.writers import save


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_signal_after_any_call_of_the_system_leaves_no_hidden_file(
    tmp_path, monkeypatch, container
):
    """A handler runs when the call has done its work, and before anybody learns that it has."""
    source = [model({f"t{i}": np.full(20, value) for i in range(3)}) for value in (1.0, 2.0)]
    options = {} if container == "npz" else {"max_shard_bytes": 200}

    def write(number: int) -> dict[str, bytes]:
        path = tmp_path / CONTAINERS[container]
        save(source[number], path, container=container, force=True, **options)
        return listing(tmp_path)

    states = write(0), write(1)
    stopped = True
    moment = 0
    while stopped:
        assert write(0) == states[0]
        with monkeypatch.context() as patch:
            left = itertools.count(moment, -1)
            for call in ("open", "write", "fsync", "chmod", "rename", "unlink"):
                patch.setattr(os, call, interrupted_when_done(getattr(os, call), left))
            try:
                write(1)
                stopped = False
            except KeyboardInterrupt:
                pass
        assert listing(tmp_path) in states, f"moment {moment}"
        moment += 1
    assert moment > 5


def interrupted_when_done(call, left):
    def do(*arguments):
        done = call(*arguments)
        if next(left) == 0:
            raise KeyboardInterrupt
        return done

    return do
