"""Whether a matrix is orthogonal up to a gain: Gram matrix of a bounded sample of its vectors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from wtool.layers.layouts import hidden_size, layout_of
from wtool.layers.names import split_leaf
from wtool.layers.randomness import gram_matrix
from wtool.layers.samples import matrix_shape

if TYPE_CHECKING:
    import numpy as np

    from wtool.checkpoint import Checkpoint, Tensor

# Vectors compared, and the values read for them at most.
VECTORS = 24
MIN_VECTORS = 4
VALUES = 1 << 20
# Float32 orthogonalisation leaves products near 1e-7; half types round each value once.
TOLERANCE = 1e-4


def is_orthogonal(tensor: Tensor, checkpoint: Checkpoint, step: float) -> bool:
    """Whether the shorter side's vectors are orthogonal and equally long; `step` is the rounding.

    The weight is seen as (outputs, rest) in PyTorch and (rest, outputs) in Keras, as both
    frameworks' `orthogonal` does; a recurrent weight also gate by gate.
    """
    layout = layout_of(tensor, checkpoint)
    rows, columns = matrix_shape(tensor.shape, layout)
    if _has_orthogonal_vectors(tensor, rows, columns, step):
        return True
    leaf = split_leaf(tensor.name)[1]
    if tensor.kind == "recurrent" and leaf.startswith("weight_hh"):
        hidden = hidden_size(tensor, checkpoint)
        if hidden and hidden < rows and hidden >= MIN_VECTORS:
            return _has_orthogonal_vectors(tensor, hidden, columns, step)
    return False


def _has_orthogonal_vectors(tensor: Tensor, rows: int, columns: int, step: float) -> bool:
    """See is_orthogonal; looks at the first `rows` rows of `columns` values."""
    import numpy as np

    length, side = max(rows, columns), min(rows, columns)
    taken = min(side, VECTORS, VALUES // max(length, 1))
    if taken < MIN_VECTORS:
        return False
    vectors = _read_vectors(tensor, rows, columns, taken)
    if not np.isfinite(vectors).all():
        return False
    gram = gram_matrix(vectors)
    lengths = gram.diagonal()
    mean = float(lengths.mean())
    # Rounding noise of a product of two unit vectors shrinks with their length; random vectors meet
    # at 1 / sqrt(length), which the tolerance never reaches.
    tolerance = min(TOLERANCE + 4 * step / math.sqrt(length), 0.3 / math.sqrt(length))
    if mean <= 0 or float(np.abs(lengths / mean - 1).max()) > max(tolerance, 4 * step):
        return False
    off = gram / mean
    np.fill_diagonal(off, 0)
    return float(np.abs(off).max()) <= tolerance


def _read_vectors(tensor: Tensor, rows: int, columns: int, taken: int) -> np.ndarray:
    """(taken, length) float64: the first rows of a wide matrix, the first columns of a tall one."""
    import numpy as np

    if rows <= columns:
        return tensor.read(0, taken * columns).astype(np.float64).reshape(taken, columns)
    # In chunks of rows, so that memory stays near VALUES however tall the matrix is.
    vectors = np.empty((taken, rows))
    step = max(1, VALUES // columns)
    for first in range(0, rows, step):
        last = min(rows, first + step)
        chunk = tensor.read(first * columns, last * columns).reshape(last - first, columns)
        vectors[:, first:last] = chunk[:, :taken].T
    return vectors
