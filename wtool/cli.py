"""Words typed -> command -> exit code."""

from __future__ import annotations

import codecs
import contextlib
import gc
import io
import os
import sys
from importlib import import_module
from itertools import takewhile
from signal import SIGINT, Signals
from typing import Any

import click

import wtool
from wtool.commands import PrintedHelp, print_lines
from wtool.errors import WtoolError, escape_controls
from wtool.stopping import EXIT_CODES, WORDS, Stopped, asked_to_stop, raise_on_signals

COMMANDS = wtool.COMMANDS
_LIBRARIES = ("numpy", "ml_dtypes", "numba", "h5py", "torch", "tensorflow", "keras", "safetensors")

# The blocks of a histogram where they cannot be printed.
_DIGITS = {block: str(height) for height, block in enumerate(range(0x2581, 0x2589), 1)}

# Bytes of a path that is no text in its encoding, as Python carries them (PEP 383).
_RAW_BYTES = frozenset(map(chr, range(0xDC80, 0xDD00)))

EXIT_BUG = 70
EXIT_BROKEN_PIPE = 141


class _Talk(io.FileIO):
    """Standard error: what a full disk or a reader that left does not take is dropped.

    The exit code says the same, and it must be that of the answer.
    """

    def write(self, data: Any) -> int:
        """See io.FileIO.write."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


class _Commands(PrintedHelp, click.Group):
    """A group that imports the file of a command only when the command is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, "completion"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "completion":
            return _completion
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"wtool.commands.{cmd_name}").COMMAND
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, known = args[0], self.list_commands(ctx)
        if name not in known and name[:1] != "-" and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = get_close_matches(name, known, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"There are {', '.join(known)}."
            ctx.fail(f"No such command {name!r}. {hint}")
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib import metadata

    lines = [f"wtool {wtool.__version__}, Python {sys.version.split()[0]}\n"]
    for library in _LIBRARIES:
        try:
            lines.append(f"{library} {metadata.version(library)}\n")
        except metadata.PackageNotFoundError:
            lines.append(f"{library} not installed\n")
    print_lines(lines)
    ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the versions of wtool and of the libraries in use.",
)
def _wtool() -> None:
    """Open any neural-network weight file without its framework, and trust every number.

    PyTorch, TensorFlow, Keras, safetensors and NumPy files are read natively; nothing in a file
    runs. Standard output carries data, standard error carries talk.

    Exit codes: 0 done or clean; 1 the answer is no; 2 wrong usage; 3 unreadable input;
    4 sound input that wtool or the target cannot hold; 5 output not writable as asked.
    """


@click.command("completion", cls=PrintedHelp, short_help="Print the shell completion script")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def _completion(shell: str) -> None:
    """Print the completion script for a shell.

    \b
    Example:
      eval "$(wtool completion bash)"
    """
    from click.shell_completion import get_completion_class

    completion = get_completion_class(shell)
    if completion is not None:
        print_lines([completion(_wtool, {}, "wtool", "_WTOOL_COMPLETE").source() + "\n"])


def run(arguments: list[str] | None = None) -> int:
    """Run one command line; returns the exit code, and never raises."""
    try:
        result: Any = _wtool.main(arguments, prog_name="wtool", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt, Stopped):
        return _stopped(asked_to_stop() or SIGINT)
    except (BrokenPipeError, SystemExit):
        # The reader of our pipe left (click turns that into SystemExit, and nothing else); keep the
        # interpreter from flushing into it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the one place that may: nothing must escape as a traceback
        _trace()
        signal = asked_to_stop()
        if signal is not None:
            return _stopped(signal)
        if isinstance(error, WtoolError):
            _say(f"error: {error}")
            return error.exit_code
        _say(f"bug in wtool: {type(error).__name__}: {escape_controls(str(error))}")
        _say("please report it; WTOOL_DEBUG=1 shows where")
        return EXIT_BUG


def main() -> None:
    """Entry point of the `wtool` script."""
    # A command lives for one answer: searching 100,000 live tensors for cycles only costs time.
    gc.set_threshold(1_000_000, 20, 100)
    # NumPy starts BLAS threads when it is imported; all products here are small.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    codecs.register_error("wtool", _spell)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="wtool")
    if isinstance(sys.stderr, io.TextIOWrapper):
        talk = io.BufferedWriter(_Talk(sys.stderr.fileno(), "w", closefd=False))
        sys.stderr = io.TextIOWrapper(talk, sys.stderr.encoding, "wtool", line_buffering=True)
    try:
        raise_on_signals()
        code = run()
    except Stopped:  # before its first step, or while it said its last word
        code = _stopped(asked_to_stop() or SIGINT)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError, Stopped):
                stream.flush()
    # All files are closed and all threads joined; taking NumPy and LLVM down would take 20 ms more.
    os._exit(code)


def _stopped(signal: Signals) -> int:
    _say(WORDS[signal])
    return EXIT_CODES[signal]


def _trace() -> None:
    if os.environ.get("WTOOL_DEBUG") == "1":
        import traceback

        sys.stderr.write(traceback.format_exc())


def _say(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"wtool: {text}\n")


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    """What a terminal or pipe gets for characters that its encoding lacks.

    Bytes of a name that is no text are given back as they were; blocks of a histogram become
    digits, 1 to 8, of the same width; anything else its escape.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    rest = error.object[error.start : error.end]
    is_raw = rest[0] in _RAW_BYTES
    run = "".join(takewhile(lambda letter: (letter in _RAW_BYTES) == is_raw, rest))
    if is_raw:
        return run.encode("ascii", "surrogateescape"), error.start + len(run)
    spelled = run.translate(_DIGITS).encode("ascii", "backslashreplace")
    return spelled.decode("ascii"), error.start + len(run)


if __name__ == "__main__":
    main()
