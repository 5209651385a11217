"""NumPy `.npz`: a zip file of `.npy` members, stored or deflated, in the order of saving.

A member "conv/kernel.npy" is the tensor "conv/kernel". Arrays of text or dates beside tensors are
left out with a note; arrays of Python objects are refused by name. The archive's comment holds the
facts of wtool's own conversions; NumPy does not look there.
"""

from __future__ import annotations

from wtool.checkpoint import FACTS, Checkpoint, build
from wtool.errors import InputError, MalformedInput, WtoolError
from wtool.formats import Format, Probe, refuse_root
from wtool.sources import Source

SUFFIX = ".npy"
# Members that make a zip file another format's, wherever its arrays come from.
FOREIGN = ("data.pkl", "archive_format", "model.weights.h5")


def claims(probe: Probe) -> bool:
    """A zip file whose members are arrays: all of them, or one at the top where none is foreign."""
    names = probe.zip_names
    arrays = [name for name in names if name.endswith(SUFFIX)]
    if not arrays or any(name.rpartition("/")[2] in FOREIGN for name in names):
        return False
    return len(arrays) == len(names) or any("/" not in name for name in arrays)


def open_file(probe: Probe, root: str | None = None) -> Checkpoint:
    """Every array of the file; reads their headers only."""
    from wtool.dialects.numpy_arrays import read_array
    from wtool.encodings.npy_header import NoNumbers

    refuse_root(root, "an .npz file")
    directory = probe.zip_directory
    if directory is None:
        raise MalformedInput("not a zip file", path=probe.path)
    directory.check_headers()
    tensors = []
    notes: list[str] = []
    no_numbers: WtoolError | None = None
    for member in directory.members.values():
        if not member.name.endswith(SUFFIX):
            notes.append(f"'{member.name}' is not an array: left out")
            continue
        name = member.name.removesuffix(SUFFIX)
        storage = (probe.path, member.header_offset)
        try:
            tensor, remarks = read_array(
                directory.open(member), name, key=member.name, storage=storage
            )
        except NoNumbers as error:
            notes.append(f"'{name}': {error.message}: left out")
            no_numbers = error.locate(tensor=name)
            continue
        except WtoolError as error:
            raise error.locate(tensor=name) from error.__cause__
        tensors.append(tensor)
        notes.extend(remarks)
    if no_numbers is not None and not tensors:
        raise no_numbers
    facts = read_facts(directory.source)
    return build(probe.path, FORMAT.name, tensors, metadata=facts, notes=tuple(notes))


def read_facts(source: Source) -> dict[str, str]:
    """The texts that wtool wrote itself, by name; none in a comment of another kind."""
    from wtool.encodings import strict_json
    from wtool.encodings.zip_end import read_comment

    try:
        found = strict_json.loads(read_comment(source))
    except InputError:
        return {}
    pairs = found.items() if type(found) is dict else ()
    return {name: text for name, text in pairs if name.startswith(FACTS) and type(text) is str}


FORMAT = Format(
    name="npz",
    title="NumPy archive",
    suffixes=(".npz",),
    claims=claims,
    open_file=open_file,
)
