"""Opens mutated files of one format, alone: `mutation_runner.py FORMAT COUNT SEED`.

A file that is opened must give a Checkpoint or a WtoolError; anything else is a failure, and so is
one that takes longer than SECONDS or more memory than MEMORY_BYTES. Prints JSON: how many were
refused, how many survived, and the failures, each with the number that makes it again.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from mutations import mutated

from wtool.errors import WtoolError
from wtool.formats import Probe, formats, open_checkpoint

FIXTURES = Path(__file__).parent.parent / "fixtures"
SECONDS = 10
MEMORY_BYTES = 1 << 30
# Elements of each tensor that are read: from the start, and up to the end.
READ_ELEMENTS = 5000
SMALL_BYTES = 70_000
MAX_FAILURES = 5


class TooSlow(BaseException):
    """Not an Exception, so that nothing under test takes it for its own."""


def too_slow(*_: object) -> None:
    raise TooSlow


def bases(format_name: str) -> list[Path]:
    """The smallest fixtures of the format, at most eight."""
    claims = next(entry.claims for entry in formats() if entry.name == format_name)
    expected = json.loads((FIXTURES / "expected.json").read_text("utf8"))
    found = [FIXTURES / case for case in expected if claims(Probe(FIXTURES / case))]
    return sorted(found, key=lambda path: (total_bytes(path), path))[:8]


def total_bytes(path: Path) -> int:
    folder = path if path.is_dir() else path.parent
    if path.is_file() and len(open_checkpoint(path, root=".").files) == 1:
        return path.stat().st_size
    return sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())


def survey(path: Path) -> None:
    """Open, look at everything that a listing shows, read values from both ends of each tensor."""
    checkpoint = open_checkpoint(path, root=".")
    len(checkpoint.aliases)
    for tensor in checkpoint:
        str((tensor.name, tensor.key, tensor.shape, tensor.nbytes, tensor.strides, tensor.offset))
        for start in {0, max(0, tensor.count - READ_ELEMENTS)}:
            try:
                tensor.read(start, min(tensor.count, start + READ_ELEMENTS))
            except WtoolError as error:
                check_line(error)


def check_line(error: WtoolError) -> None:
    if "\n" in str(error) or error.exit_code not in (3, 4):
        raise AssertionError(f"exit code {error.exit_code}: {error}") from error


def run(format_name: str, count: int, seed: int) -> dict[str, object]:
    """See the module; the work is spread evenly over the files of the format's fixtures."""
    signal.signal(signal.SIGALRM, too_slow)
    refused = survived = 0
    failures: list[str] = []
    found = bases(format_name)
    for place, base in enumerate(found):
        with tempfile.TemporaryDirectory() as scratch:
            target = copy_of(base, Path(scratch))
            victims = sorted(
                Path(name).resolve() for name in open_checkpoint(target, root=".").files
            )
            contents = [victim.read_bytes() for victim in victims]
            for number in range(place, count, len(found)):
                generator = random.Random(f"{seed} {number}")
                index = generator.randrange(len(victims))
                victims[index].write_bytes(mutated(contents[index], generator, contents))
                signal.setitimer(signal.ITIMER_REAL, SECONDS)
                try:
                    survey(target)
                    survived += 1
                except WtoolError as error:
                    check_line(error)
                    refused += 1
                except (Exception, TooSlow):  # noqa: BLE001 - what this looks for
                    failures.append(f"{base.name} {number}: {traceback.format_exc()}")
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    victims[index].write_bytes(contents[index])
                if len(failures) >= MAX_FAILURES:
                    return {"refused": refused, "survived": survived, "failures": failures}
    return {"refused": refused, "survived": survived, "failures": failures}


def copy_of(base: Path, scratch: Path) -> Path:
    """The fixture alone, or with its folder where it has other files beside it."""
    if base.is_file() and len(open_checkpoint(base, root=".").files) == 1:
        return Path(shutil.copy(base, scratch))
    folder = base if base.is_dir() else base.parent
    shutil.copytree(folder, scratch / "copy")
    return scratch / "copy" if base.is_dir() else scratch / "copy" / base.name


def main() -> None:
    """Run with bounded memory: what is in use once the libraries are loaded, and MEMORY_BYTES."""
    format_name, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    for base in bases(format_name):
        survey(base)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.stdout.write(json.dumps(run(format_name, count, seed)))


if __name__ == "__main__":
    main()
