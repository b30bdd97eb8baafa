"""The command line, one command a file. Printing lives here and nowhere else in the package.

Each command module is imported only when it is run or its help is asked for, so that commands which
compute nothing start without loading torch.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

import stlsearch
from stlsearch.errors import InputError, RegistryError

COMMANDS = {
    "fit": "Fit a rank-r decomposition and store it in the registry.",
    "compare": "Compare initialisation strategies with one solver and one budget.",
    "frontier": "Show the best registered basis at every rank.",
    "construct": "Build an exact algorithm from an expression.",
    "border": "Verify border-rank families with a parameter eps, and register members of them.",
    "search": "Search an exact algorithm on the flip graph, or from random numeric starts.",
    "round": "Round a numeric algorithm to an exact one.",
    "lift": "Lift an algorithm modulo p to the integers or fractions.",
    "list": "List registered algorithms.",
    "show": "Show one algorithm, its factors as formulas.",
    "verify": "Verify an algorithm in exact arithmetic.",
    "same": "Tell whether two algorithms are one in different bases.",
    "symmetries": "List the symmetries of an exact algorithm.",
    "additions": "Count additions, and write straight-line programs with shared sums.",
    "sparsify": "Rewrite an exact algorithm as a sparse core between changes of basis.",
    "best": "Name the best registered algorithm of a tile and rank.",
    "table": "Show the best exact algorithm of every size beside the records.",
    "evaluate": "Measure error, cost and wall clock of an algorithm as an operator.",
    "bench": "Measure the operator's speed beside torch.matmul and the roofline's ideal.",
    "convert": "Replace a model's layers by Strassen-Tile ones.",
    "count": "Count a model's multiply-accumulates and parameters, dense and converted.",
    "export": "Write an algorithm as JSON, npz, Python, LaTeX, or in another program's format.",
    "import": "Add algorithms from files or folders, of any program's format, to the registry.",
    "rm": "Remove an algorithm from the user's registry.",
}


class _Group(click.Group):
    """Knows the commands' names and summaries; loads a module only for the command that is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"stlsearch.commands.{name}_").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(f"unknown command {args[0]!r}; valid: {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(stlsearch.__version__, message="stlsearch %(version)s")
def cli() -> None:
    """Search, tune and deploy bilinear algorithms: exact and approximate fast matrix multiplication."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 2 for bad input (one line on stderr), 130 for Ctrl-C."""
    try:
        result = cli.main(args=args, prog_name="stlsearch", standalone_mode=False)
        if sys.stdout is not None:  # None when it was closed (>&-)
            sys.stdout.flush()  # here, where a full disk is one line, and not at exit
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _fail(error.format_message())
    except (InputError, RegistryError) as error:
        return _fail(str(error))
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted: nothing was saved", err=True)
        return 130
    except (MemoryError, RuntimeError) as error:
        # PyTorch has no class of its own for a CPU that is out of memory, and its CUDA one is a RuntimeError.
        if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
            return _fail("not enough memory: give a smaller tile, rank, size or number of restarts")
        raise
    except BrokenPipeError:  # the reader went away (stlsearch list | head): no traceback, no second error at exit
        sys.stderr.close()
        return 1
    except OSError as error:  # standard output is full; files have errors of their own
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _fail(f"cannot write the output: {error.strerror or error}")


def _fail(message: str) -> int:
    click.echo("error: " + " ".join(message.split()), err=True)
    return 2


def run() -> None:
    """Entry point of the installed `stlsearch`."""
    sys.exit(main())
