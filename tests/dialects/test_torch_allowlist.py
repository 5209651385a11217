"""The table of allowed globals against the installed torch."""

import torch._weights_only_unpickler as unpickler

from wtool.dialects.torch_allowlist import WEIGHTS_ONLY, is_allowed


def test_the_table_is_the_list_of_torch():
    assert set(unpickler._get_allowed_globals()) == WEIGHTS_ONLY


def test_what_runs_code_is_allowed_and_what_makes_tensors_is_not():
    assert not is_allowed("os.system")
    assert not is_allowed("numpy.core.multiarray._reconstruct")
    assert is_allowed("torch._utils._rebuild_tensor_v2")
