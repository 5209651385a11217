"""Coverage-guided fuzzing of one encoding, under atheris:

    python tests/fuzz/run.py --target pickle --seconds 120

Seeds are the fixtures and `corpus/<target>`; what is found is written to `--artifacts` and, once it
is mended, kept in the corpus by hand. Needs `pip install atheris`, which the test suite does not.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

# An input that takes longer than this, or more memory, is a finding.
TIMEOUT_SECONDS = 5
MEMORY_MIB = 1500


def main() -> None:
    """Parse the options, instrument wtool, and fuzz until the time is over or a fault is found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--max-len", type=int, default=80_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--artifacts", default=tempfile.gettempdir())
    options = parser.parse_args()

    import atheris

    with atheris.instrument_imports(include=["wtool"]):
        from targets import CORPUS, TARGETS, ends_in_order

        import wtool.dialects.tf_entries
        import wtool.dialects.torch_checkpoint
        import wtool.dialects.torch_composite_calls
        import wtool.encodings.hdf5_file
        import wtool.encodings.safetensors_header
        import wtool.encodings.sorted_table
        import wtool.encodings.tar_directory
        import wtool.encodings.zip_directory
        import wtool.formats.torch_legacy  # noqa: F401

    target = TARGETS[options.target]
    with tempfile.TemporaryDirectory() as folder:
        for data in target.seeds():
            name = hashlib.sha256(data).hexdigest()[:16]
            Path(folder, name).write_bytes(data)
        kept = CORPUS / target.name
        for path in sorted(kept.iterdir()) if kept.is_dir() else ():
            Path(folder, path.name).write_bytes(path.read_bytes())
        arguments = [
            sys.argv[0],
            f"-max_total_time={options.seconds}",
            f"-max_len={options.max_len}",
            f"-seed={options.seed}",
            f"-timeout={TIMEOUT_SECONDS}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-artifact_prefix={Path(options.artifacts).resolve()}/{target.name}-",
            "-print_final_stats=1",
            folder,
        ]
        atheris.Setup(arguments, lambda data: ends_in_order(target, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
