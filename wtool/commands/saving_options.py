"""The click options that `convert` and `cast` share: which tensors are written, and how."""

from __future__ import annotations

import click

from wtool.commands import PATH
from wtool.writers import CONTAINERS
from wtool.writers.plans import LOSSES


def shaping_options() -> list[click.Parameter]:
    """Which tensors are written, and under which names, beside --select, --exclude and --root."""
    return [
        click.Option(
            ["--strip-prefix"],
            multiple=True,
            metavar="PREFIX",
            help="Take this from the front of names, as in 'module.'.",
        ),
        click.Option(
            ["--rename"],
            multiple=True,
            metavar="OLD=NEW",
            help="Rename by glob, or by regular expression after 're:', with \\1 in NEW.",
        ),
        click.Option(
            ["--model-only"],
            is_flag=True,
            help="Leave out optimizer, EMA and other state, and values that are no tensors.",
        ),
        click.Option(["--ema"], is_flag=True, help="Take the EMA copy in the model's place."),
    ]


def saving_options() -> list[click.Parameter]:
    """The options of the output that `convert` and `cast` share."""
    return [
        click.Option(
            ["--container"],
            type=click.Choice(CONTAINERS),
            help="What to write (default: by the ending of OUT; no ending is TensorFlow).",
        ),
        click.Option(
            ["--max-shard-size"],
            metavar="SIZE",
            help="Largest sum of tensors in one file: 5GB, 500MB, 2GiB.",
        ),
        click.Option(
            ["--shards"], type=click.IntRange(1, 99_999), help="Split into about so many files."
        ),
        click.Option(
            ["--template"],
            metavar="PATH",
            type=PATH,
            help="Keras, TensorFlow: a file of the target model, for its structure.",
        ),
        click.Option(
            ["--state"], is_flag=True, help="TensorFlow: write the `checkpoint` file too."
        ),
        click.Option(["--untie"], is_flag=True, help="Write tied tensors separately."),
        click.Option(["--drop-extras"], is_flag=True, help="Leave out values that are no tensors."),
        click.Option(
            ["--allow"],
            multiple=True,
            type=click.Choice(list(LOSSES)),
            help="Accept the loss of what the target cannot hold.",
        ),
        click.Option(["--dry-run"], is_flag=True, help="Show the plan, write nothing."),
        click.Option(
            ["--prove"], is_flag=True, help="Have the target's own library read it, and compare."
        ),
    ]
