"""One night over an archive, as a Ray job: list, score what is new, compare it with the nights before, say how it went.

    ray job submit --working-dir . -- python jobs/nightly.py jobs/nightly.yaml [--set key=value ...]

The last line of the job's log says in one sentence what happened. Exit codes: 0 done (also: nothing new), 1 failed,
2 wrong usage or configuration, 3 too many faults, 4 drift (with drift.on_drift: fail), 143 stopped on request.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cxr_ray.cli import FAILED
from cxr_ray.cluster import session
from cxr_ray.config import NightlyConfig, load_yaml
from cxr_ray.errors import CxrRayError
from cxr_ray.nightly import run_night
from cxr_ray.scoring.drain import stop_on_sigterm


def log(line: str) -> None:
    """A line in the job's log with the time of day, UTC."""
    print(f"[{datetime.now(UTC):%H:%M:%S}] {line}", file=sys.stderr, flush=True)


app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def main(
    config: Annotated[Path, typer.Argument(help="YAML file with the night's settings, e.g. jobs/nightly.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, e.g. score.batch_size=16; may be repeated.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to use; default: that of the job.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and Ray's own messages.")] = False,
) -> None:
    """Score what is new since the last night, and compare it with the nights before."""
    code, line = FAILED, "Night FAILED (exit 1): an error that was not foreseen; its traceback is in this log."
    try:
        settings = load_yaml(NightlyConfig, config, overrides=tuple(overrides or ()))
        with session(address, debug=debug), stop_on_sigterm() as stop:
            night = run_night(settings, stop=stop, log=log)
        code, line = night.exit_code, night.line()
    except CxrRayError as error:
        if debug:
            raise
        code = error.exit_code
        line = f"Night FAILED (exit {code}): {error}"
    finally:
        print(line, flush=True)  # whatever happened: whoever looks in the morning finds the line
    raise typer.Exit(code)


if __name__ == "__main__":
    app()
