"""A process that forks: each child saves a model under a limit that the tests may not have.

Commands, one JSON list a line: [what, container, path, number]; the answer is the child's number.
"wait" answers with its exit code. Forking from here and not from the tests: they hold frameworks,
whose threads do not survive a fork.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time

import numpy as np
from writer_models import model

from wtool.errors import OutputError
from wtool.writers import outputs, plan, save

NOBODY = 65534


def slow(container: str, path: str, value: float) -> None:
    """Save until killed, each write in two bites with a pause, so that a kill finds half a file."""
    arrays = {f"t{i}": np.full(100, value, np.float32) for i in range(12)}
    options = {} if container == "npz" else {"max_shard_bytes": 1200}
    write = outputs.Output.write

    def slow_write(self: outputs.Output, data: bytes) -> None:
        data = bytes(data)
        write(self, data[: len(data) // 2])
        time.sleep(0.002)
        write(self, data[len(data) // 2 :])

    outputs.Output.write = slow_write  # type: ignore[method-assign]
    for _ in range(1000):
        save(model(arrays), path, container=container, force=True, **options)


def small(value: float = 1.0):
    """The model that both sides save."""
    return model({"a": np.full(1000, value, np.float32), "b": np.arange(10)})


def limited(container: str, path: str, nbytes: float) -> None:
    """Save where files may not grow beyond `nbytes`."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(nbytes), int(nbytes)))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    save(small(), path, container=container, force=True)


def nobody(container: str, path: str, _: float) -> None:
    """Save as somebody without rights; root may write everywhere.

    What saving imports is imported before: nobody may not enter the folder that wtool lies in.
    """
    plan(small(), path, container=container)
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    save(small(), path, container=container)


def child(what: str, container: str, path: str, number: float) -> int:
    """Exit code: 0 done, 5 refused with a message that explains it, 1 anything else."""
    actions = {"slow": slow, "limited": limited, "nobody": nobody}
    messages = {"limited": "nothing was changed", "nobody": "read-only"}
    try:
        actions[what](container, path, number)
    except OutputError as error:
        return error.exit_code if messages[what] in str(error) else 1
    return 0


def main() -> None:
    """Serve until the input ends."""
    pid = 0
    for line in sys.stdin:
        command = json.loads(line)
        if command == "wait":
            answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        else:
            answer = pid = os.fork()
            if pid == 0:
                os._exit(child(*command))
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
