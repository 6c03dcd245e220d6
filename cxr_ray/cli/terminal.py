"""What all commands share: the app, the options that mean the same everywhere, errors as sentences, progress, Ray."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any, NoReturn

import typer

from cxr_ray import __version__
from cxr_ray.errors import CxrRayError

FAILED, WRONG_USAGE, TOO_MANY_FAULTS, DRIFTED, STOPPED = 1, 2, 3, 4, 143

app = typer.Typer(
    name="cxr-ray",
    help="Radiographs in, one row each out: ensembles of CNNs over chest X-rays. Research software, no medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Address = Annotated[
    str | None, typer.Option(help="Ray cluster to use, e.g. auto or ray://host:10001; default: a local one.")
]
ScoringAddress = Annotated[
    str | None, typer.Option(help="Ray cluster to use, e.g. auto or ray://host:10001; default: see --engine.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and Ray's own messages.")]
Digest = Annotated[str | None, typer.Option(help="Which ensemble's rows, when OUT holds several.")]
Output = Annotated[str, typer.Argument(metavar="OUT", help="Folder or s3:// prefix of the scores.")]
UriColumn = Annotated[str, typer.Option(help="Column of the table with the image.")]
ImageRoot = Annotated[str | None, typer.Option(help="Folder of relative images; default: the table's.")]


def _version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        typer.echo(f"cxr-ray {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Nothing to do before a command."""


def log_lines() -> Callable[[str], None]:
    """Progress lines on stderr, with the seconds since the command began."""
    started = time.monotonic()

    def log(line: str) -> None:
        typer.echo(f"[{time.monotonic() - started:6.1f} s] {line}", err=True)

    return log


def print_result(values: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    """The result on stdout, for a program or for a person."""
    typer.echo(json.dumps(values, indent=2) if as_json else "\n".join(lines))


@contextmanager
def reporting(
    debug: bool, *, interrupted: str = "The same command continues where this one stopped."
) -> Iterator[None]:
    """Turn what users can mend into one sentence and an exit code; a bug keeps its traceback."""
    try:
        yield
    except CxrRayError as error:
        if debug:
            raise
        _fail(error, error.exit_code)
    except KeyboardInterrupt:
        typer.echo(f"Interrupted. {interrupted}", err=True)
        raise typer.Exit(130) from None


def _fail(error: CxrRayError, code: int) -> NoReturn:
    """Print one sentence and leave."""
    typer.echo(f"Error: {error}", err=True)
    raise typer.Exit(code)


@contextmanager
def ray_session(address: str | None, *, debug: bool) -> Iterator[None]:
    """A Ray to work on while the command runs; what it prints goes to stderr, because stdout is for the result."""
    from cxr_ray.cluster import session

    with redirect_stdout(sys.stderr), session(address, debug=debug):
        yield
