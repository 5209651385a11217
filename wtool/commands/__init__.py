"""The commands: one file each, one plain function from checkpoints to a Report or a Checkpoint.

A command file holds the function, its help, and `COMMAND`, the function made into a click command
by
`report_command`. Opening, selecting, rendering, writing and exiting happen here, once for all.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, overload

import click

from wtool.checkpoint import Checkpoint
from wtool.commands.progress import Progress
from wtool.commands.selection import choose
from wtool.errors import UsageError, escape_controls
from wtool.report import Report, combine

# Renderings that every Report has.
FORMATS = ("table", "json", "csv", "markdown", "html")
# Options that a function which opens its own models has only where it takes them.
_CHOOSING = ("select", "exclude", "root")
_T = TypeVar("_T")
_MODEL_HELP = "MODEL is a file, a TensorFlow prefix, an index file or a directory."


class PrintedHelp(click.Command):
    """A command whose help is printed as reports are: a full disk is an OutputError."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """See click.Command.get_help_option."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _print_help
        return option


def _print_help(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        print_lines([ctx.get_help() + "\n"])
        ctx.exit()


def report_command(
    function: Callable[..., Report],
    *params: click.Parameter,
    name: str | None = None,
    models: str = "many",
    formats: Sequence[str] = FORMATS,
    kinds: bool = True,
    command_class: type[PrintedHelp] = PrintedHelp,
) -> click.Command:
    """A click command from a function `(checkpoint, *, options...) -> Report`.

    params: the command's own click options and arguments; their names are the function's keywords.
    models: "many": MODEL... of the command line, one call each, reports combined; "one": exactly
    one;
    "none": the function opens what it needs from its own arguments through `open_model`.
    formats: the renderings that --format offers, the first is the default.
    kinds: whether the function asks for `layer` or `kind` of tensors.
    `jobs` and `progress` are handed to functions that take them. A function that takes `output`
    writes that file itself; its report goes to standard output. The docstring is the help.
    """
    accepted = inspect.signature(function).parameters

    def callback(
        model: Sequence[str] | str = (),
        *,
        format: str,
        output: str | None,
        force: bool,
        select: Sequence[str] = (),
        exclude: Sequence[str] = (),
        root: str | None = None,
        jobs: int | None,
        quiet: bool,
        progress: bool | None,
        **options: Any,
    ) -> None:
        if "jobs" in accepted:
            options["jobs"] = jobs
        if output == "-":
            if "output" in accepted:
                raise UsageError("-o - is no file", hint="name one; only reports go to a pipe")
            output = None
        target = None if "output" in accepted else output
        if target is not None:
            refuse_report(target, force=force)
        with _progress(progress, quiet) as bar:
            if "progress" in accepted:
                options["progress"] = bar.update
            if models == "none":
                chosen = {
                    "model": model,
                    "select": tuple(select),
                    "exclude": tuple(exclude),
                    "root": root,
                    "force": force,
                    "output": output,
                }
                options.update({k: v for k, v in chosen.items() if k in accepted})
                report = function(**options)
            else:
                paths = [model] if isinstance(model, str) else list(model)
                reports = []
                for path in paths:
                    bar.restart()
                    checkpoint = choose(open_model(path, root=root, kinds=kinds), select, exclude)
                    reports.append(function(checkpoint, **options))
                report = combine(reports, paths)
        show(report, format, output=target, force=force, quiet=quiet)
        click.get_current_context().exit(0 if report.ok else 1)

    arguments: list[click.Parameter] = []
    if models != "none":
        count = -1 if models == "many" else 1
        arguments.append(click.Argument(["model"], nargs=count, required=True, type=PATH))
    text = inspect.cleandoc(function.__doc__ or "")
    shared = [
        option
        for option in shared_options(formats)
        if models != "none" or option.name not in _CHOOSING or option.name in accepted
    ]
    return command_class(
        name or function.__name__,
        params=[*arguments, *params, *shared],
        callback=callback,
        help=text if models == "none" else f"{text}\n\n{_MODEL_HELP}",
        short_help=text.splitlines()[0].rstrip("."),
        no_args_is_help=True,
    )


def shared_options(formats: Sequence[str] = FORMATS) -> list[click.Parameter]:
    """The options that every command with a Report has."""
    return [
        click.Option(
            ["--format"],
            type=click.Choice(formats),
            default=formats[0],
            help="How the report is rendered.",
        ),
        click.Option(
            ["-o", "--output"], type=PATH, help="Write to this file, not to standard output (-)."
        ),
        click.Option(["--force"], is_flag=True, help="Overwrite an existing output."),
        click.Option(
            ["--select"],
            multiple=True,
            metavar="PATTERN",
            help="Only tensors that match: a glob, or a regular expression after 're:'.",
        ),
        click.Option(
            ["--exclude"], multiple=True, metavar="PATTERN", help="Leave out tensors that match."
        ),
        click.Option(
            ["--root"],
            metavar="NAME",
            help="Which branch of a nested file is the model; '.' keeps all.",
        ),
        click.Option(
            ["--jobs"], type=click.IntRange(1, 1024), help="Threads to use (default: all cores)."
        ),
        click.Option(["--quiet"], is_flag=True, help="No notes on standard error."),
        click.Option(
            ["--progress/--no-progress"],
            default=None,
            help="Show progress (default: only on a terminal).",
        ),
    ]


def opened(model: Checkpoint | str | os.PathLike[str]) -> Checkpoint:
    """`model` itself, or the checkpoint at that path: functions take either."""
    return model if isinstance(model, Checkpoint) else open_model(model)


def opened_at(model: Checkpoint | str | os.PathLike[str], root: str | None) -> Checkpoint:
    """See `opened`; UsageError where `root` is named for what is open already."""
    if not isinstance(model, Checkpoint):
        return open_model(model, root=root)
    if root is None:
        return model
    raise UsageError(
        "root says how to open a file, and this checkpoint is open",
        path=model.path,
        hint=f"wtool.open(path, root={root!r})",
    )


@overload
def as_text(path: str | os.PathLike[str]) -> str: ...
@overload
def as_text(path: _T | str | os.PathLike[str]) -> _T | str: ...
def as_text(path: object) -> object:
    """A path of `pathlib` and its like as text; all else as it is: a Checkpoint, None, a text."""
    return os.fspath(path) if isinstance(path, os.PathLike) else path


def open_model(
    path: str | os.PathLike[str], *, root: str | None = None, kinds: bool = True
) -> Checkpoint:
    """The checkpoint at `path` with roles; with layers and kinds unless nothing asks for them."""
    from wtool.formats import open_checkpoint
    from wtool.layers import assign_roles

    checkpoint = open_checkpoint(path, root=root)
    assign_roles(checkpoint, kinds=kinds)
    return checkpoint


def show(report: Report, format: str, *, output: str | None, force: bool, quiet: bool) -> None:
    """Render `report` to standard output or to `output`; notes go to standard error."""
    from wtool.render import render

    lines = render(report, format)
    if output is not None:
        from wtool.writers.outputs import OutputSet

        refuse_report(output, force=force)
        with OutputSet() as outputs:
            file = outputs.create(output)
            for line in lines:
                file.write(encoded(line))
    else:
        print_lines(lines)
    if not quiet and format == "table":
        for note in report.notes:
            click.echo(escape_controls(f"note: {note}"), err=True)


def encoded(text: str) -> bytes:
    """`text` in UTF-8: bytes of a name that is no text as they were, half a pair as its escape."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        lone = "[\ud800-\udc7f\udd00-\udfff]"
        spelled = re.sub(lone, lambda half: f"\\u{ord(half[0]):x}", text)
        return spelled.encode("utf-8", "surrogateescape")


def print_lines(lines: Iterable[str]) -> None:
    """Write to standard output; OutputError where that is closed, or its disk is full."""
    from wtool.errors import OutputError

    if sys.stdout is None:
        raise OutputError("cannot write: it is closed", path="standard output")
    try:
        for line in lines:
            sys.stdout.write(line)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is left in the buffer would fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"cannot write: {reason}", path="standard output") from error


def refuse_report(path: str, *, force: bool) -> None:
    """OutputError where text cannot go to `path`: see `refuse_targets`; never over a weight file.

    With --force a slip of the shell's history (`ls model.pth -o model.pth`) would destroy a model.
    """
    from wtool.errors import OutputError
    from wtool.writers.outputs import refuse_targets

    refuse_targets([path], 0, force=force)
    kind = weight_file_kind(path)
    if kind is not None:
        raise OutputError(
            f"cannot write: text would replace a weight file ({kind})",
            path=path,
            hint="name another",
        )


def weight_file_kind(path: str) -> str | None:
    """What the weight file at `path` is called ("PyTorch zip file"); None where it is none."""
    from wtool.errors import WtoolError
    from wtool.formats import Probe, find_format

    if not os.path.exists(path):
        return None
    try:
        return find_format(Probe(path)).title
    except WtoolError:
        return None


def _progress(wanted: bool | None, quiet: bool) -> AbstractContextManager[Progress]:
    if sys.stderr is None:
        return Progress(False)
    enabled = sys.stderr.isatty() and not quiet if wanted is None else wanted
    return Progress(enabled)


class _Path(click.ParamType):
    """A path as typed: nothing is checked here, opening tells what is wrong with it."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[Any]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


# The type of every argument and option that is a path: shells complete names of files.
PATH = _Path()
