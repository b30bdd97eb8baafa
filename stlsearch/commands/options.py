"""Options, argument types and output that several commands share."""

from __future__ import annotations

import functools
import json
import math
import re
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import click

from stlsearch.errors import InputError
from stlsearch.registry.store import ENVIRONMENT, open_registry
from stlsearch.target_text import FORMS, parse_target
from stlsearch.targets import Target, parse_tile

JSON_VERSION = 1
WRITTEN = "stlsearch.target"  # where the context keeps a target as it was written
UNRECORDED = ("registry", "out", "as_json", "time_limit", "checkpoint", "resume")  # options that do not decide a result
INTERRUPTED = 130  # exit code after Ctrl-C, as shells report it
Decorator = Callable[[Callable], Callable]


class TileType(click.ParamType):
    """A tile size, ``4`` or ``2x3x4``, as the target <n,m,p>."""

    name = "TILE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Target:
        if isinstance(value, Target):
            return value
        try:
            return Target.matmul(*parse_tile(str(value)))
        except InputError as error:
            self.fail(str(error), param, ctx)


class TargetType(click.ParamType):
    """A bilinear map, ``polymul:4`` or ``tensor.npz``, as a target. What was written is kept in the context for `command_line`."""

    name = "TARGET"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Target:
        if isinstance(value, Target):
            return value
        try:
            target = parse_target(str(value))
        except InputError as error:
            self.fail(str(error), param, ctx)
        if ctx is not None:
            ctx.meta[WRITTEN] = str(value)
        return target


class RankType(click.ParamType):
    """A rank: an integer of at least 1."""

    name = "INTEGER"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip()
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
            self.fail(f"a rank is an integer of at least 1, not {text!r:.40}", param, ctx)
        return int(text)


class RanksType(click.ParamType):
    """Ranks such as ``24``, ``16-32`` or ``16,24,30-32``, as a list without repetition."""

    name = "RANKS"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        ranks: list[int] = []
        for part in str(value).split(","):
            match = re.fullmatch(r"\s*([0-9]{1,6})(?:-([0-9]{1,6}))?\s*", part)
            low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
            if not 1 <= low <= high or high - low > 10_000:
                self.fail(f"ranks are given like 24, 16-32 or 16,24,30-32, not {str(value)!r:.40}", param, ctx)
            ranks += range(low, high + 1)
        return list(dict.fromkeys(ranks))


class CountType(click.ParamType):
    """A whole number of at least 1, of what `noun` names."""

    name = "INTEGER"

    def __init__(self, noun: str) -> None:
        self.noun = noun

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip()
        if not re.fullmatch(r"[0-9]{1,15}", text) or int(text) == 0:
            self.fail(f"{self.noun} must be an integer of at least 1, not {text!r:.40}", param, ctx)
        return int(text)


class PositiveType(click.ParamType):
    """A finite number above 0."""

    name = "NUMBER"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            self.fail(f"expected a number above 0, not {str(value)!r:.40}", param, ctx)
        return number


def parse_size(text: str) -> tuple[int, int, int]:
    """(M, K, N) of ``4096``, which is square, or ``512x1024x768``.

    Raises:
        InputError: anything else.
    """
    match = re.fullmatch(r"([0-9]{1,9})(?:x([0-9]{1,9})x([0-9]{1,9}))?", text.strip())
    if not match:
        raise InputError(f"size {text!r:.40} is not valid: give one such as 4096, or three such as 512x1024x768")
    first = int(match[1])
    return first, int(match[2] or first), int(match[3] or first)


def tile_option(required: bool = True) -> Decorator:
    """``--tile 4`` or ``--tile 2x3x4``, passed as `tile`, a matrix-product `Target` (None when absent)."""
    return click.option("--tile", type=TileType(), required=required, help="Tile size: 4 for 4x4x4, or 2x3x4.")


def target_option(required: bool = True) -> Decorator:
    """``--tile 4`` or ``--target polymul:4``, of which one is given, passed as `target` (None when both are absent)."""

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def command(*args: object, tile: Target | None, target: Target | None, **rest: object) -> object:
            if tile is not None and target is not None:
                raise InputError("give --tile or --target, not both: --tile 4 is short for --target matmul:4x4x4")
            if required and tile is None and target is None:
                raise click.UsageError("missing option '--tile' or '--target': one of them is required")
            return function(*args, target=target if tile is None else tile, **rest)

        text = f"Any bilinear map: {FORMS}."
        target_type = click.option("--target", type=TargetType(), help=text)
        return tile_option(required=False)(target_type(command))

    return decorate


def rank_option(required: bool = True) -> Decorator:
    """``--rank 24``, passed as `rank`, a positive int (None when absent)."""
    return click.option("--rank", type=RankType(), required=required, help="Number of multiplications.")


def amplification_option() -> Decorator:
    """``--max-amplification 100``, passed as `max_amplification`, a positive float or None."""
    return click.option("--max-amplification", type=PositiveType(), help="Largest amplification g: how much rounding is amplified.")


def seed_option(help_text: str = "Seed of every random choice.") -> Decorator:
    """``--seed 3``, passed as `seed`, 0 by default."""
    return click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help=help_text)


def device_option() -> Decorator:
    """``--device auto|cpu|cuda``, passed as `device`, still a name: see `stlsearch.devices.resolve_device`."""
    return click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")


def dtype_option() -> Decorator:
    """``--dtype float64|float32`` of a solver, passed as `dtype`."""
    return click.option("--dtype", default="float64", show_default=True, help="Of the solver: float64 or float32.")


def threads_option() -> Decorator:
    """``--threads 2``, passed as `threads`, 1 by default."""
    text = "CPU threads. Matrices this small gain little from more, and lose much on a busy machine."
    return click.option("--threads", type=CountType("threads"), default=1, show_default=True, help=text)


def registry_option() -> Decorator:
    """``--registry PATH``, passed as `registry`, an open `Registry` over the shipped algorithms."""
    return click.option(
        "--registry",
        type=click.Path(),
        envvar=ENVIRONMENT,
        show_envvar=True,
        callback=lambda ctx, param, value: open_registry(value),
        help="Folder of your own algorithms; by default in your user data folder.",
    )


def json_option() -> Decorator:
    """``--json``, passed as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print versioned JSON, for programs.")


def command_line(**resolved: object) -> str:
    """The running command with the options given, less where and how results are written: what makes them again.

    Args:
        resolved: options that decide the result whether given or not, with the values in use.
    """
    context = click.get_current_context()
    words = ["stlsearch", str(context.info_name)]
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        given = source is not None and source.name == "COMMANDLINE" and name not in UNRECORDED
        if not given and name not in resolved:
            continue
        value = resolved.get(name, context.params[name])
        for each in value if isinstance(value, tuple) else (value,):
            text = each.slug if isinstance(each, Target) else str(each)
            if name == "target":
                text = context.meta.get(WRITTEN, text)
            words += [parameter.opts[-1]] if each is True else [parameter.opts[-1], shlex.quote(text)]
    return " ".join(words)


@contextmanager
def uninterrupted(on_interrupt: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Ctrl-C calls `on_interrupt` instead of raising, until the block ends: for what must not be torn apart."""
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield
        return
    previous = signal.signal(signal.SIGINT, lambda number, frame: on_interrupt())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def emit_json(document: Mapping[str, object]) -> None:
    """Print a JSON object on stdout, its first key being the version of the output."""
    click.echo(json.dumps({"version": JSON_VERSION, **document}, indent=2, allow_nan=False))
