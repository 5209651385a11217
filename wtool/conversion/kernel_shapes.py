"""What the shapes of two sides' weights allow, and what they rule out."""

from __future__ import annotations

Shape = tuple[int, ...]


def layouts_between(torch: Shape, keras: Shape) -> list[str]:
    """Kinds whose layouts turn a PyTorch shape into a Keras one."""
    if len(torch) != len(keras):
        return []
    if len(torch) == 2:
        # Stored (in, out) on both sides or transposed: told apart by a matrix that is not square.
        fits: dict[str, Shape] = {"linear": torch[::-1], "conv1d_linear": torch}
    else:
        window = torch[2:]
        fits = {"conv": (*window, torch[1], torch[0])}
        if torch[1] == 1:
            fits["depthwise"] = (*window, torch[0], 1)
    return [kind for kind, shape in fits.items() if shape == keras]


def against_transpose(torch: Shape, bias: int | None, keras: Shape | None) -> str | None:
    """Why a PyTorch weight may be no plain transposed convolution, (I, O, window); None: it is one.

    In groups it is (I, O / groups, window), for which Keras has no layer. Only what says O tells
    the two apart. bias: its length. keras: the shape of the kernel on the other side.
    """
    if len(torch) < 3 or not torch[1]:
        return None
    if keras is not None:
        outputs = keras[-2] if len(keras) == len(torch) and keras[-1] == torch[0] else torch[1]
    elif bias is not None:
        outputs = bias
    else:
        return "without a bias or the target's file nothing shows that it is not in groups"
    groups, rest = divmod(outputs, torch[1])
    if groups > 1 and not rest:
        return f"a transposed convolution in {groups} groups, which Keras does not have"
    return None
