"""How long `wtool manifest` takes beside `openssl dgst`, as whole processes in the same run.

python tests/bench/bench_manifest.py [--folder FOLDER] [--size full] [--runs 5]

The peer takes the SHA-256 of the file; wtool that and the digest of every tensor. Goal: within 1.2
times of the peer, in less than 150 MB.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from importlib.util import find_spec

from make_model import SIZES, make_model
from measure import compare, table, warm


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default=os.path.join(tempfile.gettempdir(), "wtool-bench"))
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    os.makedirs(chosen.folder, exist_ok=True)
    path = make_model(chosen.folder, size=chosen.size)
    output = os.path.join(chosen.folder, "weights.manifest.json")
    warm(path)
    wtool = [sys.executable, "-m", "wtool"]
    manifest = [*wtool, "manifest", path, "-o", output, "--force"]
    commands = {
        "openssl dgst -sha256": ["openssl", "dgst", "-sha256", path],
        "wtool manifest": manifest,
        "wtool verify": [*wtool, "verify", path, output],
    }
    if find_spec("blake3"):
        blake3 = os.path.join(chosen.folder, "blake3.manifest.json")
        commands["wtool manifest --digest blake3"] = [
            *wtool, "manifest", path, "-o", blake3, "--force", "--digest", "blake3",
        ]  # fmt: skip
    peer, *others = compare(commands, chosen.runs)
    title = f"digests of {os.path.getsize(path) / 1e9:.2f} GB"
    sys.stdout.write(table(title, peer, others) + "\n")


if __name__ == "__main__":
    main()
