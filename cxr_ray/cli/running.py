"""The commands that do the work and account for it: demo, train, score, scan, verify, status."""

import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_ray.cli.terminal import (
    FAILED,
    STOPPED,
    TOO_MANY_FAULTS,
    Address,
    AsJson,
    Debug,
    Output,
    ScoringAddress,
    app,
    log_lines,
    print_result,
    ray_session,
    reporting,
)
from cxr_ray.config import LossConfig, ScanConfig, ScoreConfig, TrainConfig, load_yaml, overridden, parse

if TYPE_CHECKING:
    from cxr_ray.scoring.run import RunResult
    from cxr_ray.training.comparison import Comparison
    from cxr_ray.training.rehearsal import Rehearsal
    from cxr_ray.training.trainer import TrainResult


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option(help="Folder for the archive, the ensemble, the scores and the report.")
    ] = Path("cxr_ray_demo"),
    images: Annotated[int, typer.Option(min=60, help="Phantom radiographs to make.")] = 1300,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training part; default: enough for a good demo.")
    ] = None,
    address: Address = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a phantom archive, train a small ensemble, score the held-out part, write a report: minutes on a CPU."""
    from cxr_ray.demo import run_demo

    with reporting(debug), ray_session(address, debug=debug):
        result = run_demo(output.absolute(), num_images=images, epochs=epochs, log=log_lines())
    print_result(result.to_dict(), result.lines(), as_json=as_json)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file with the run's settings.")],
    output: Annotated[
        str, typer.Option(help="Folder for the ensemble, checkpoints and decoded images.")
    ] = "cxr_ray_training",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, e.g. optimize.epochs=5; may be repeated.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, estimate memory and time, start nothing.")
    ] = False,
    compare: Annotated[
        str | None,
        typer.Option(help="Train the first member with each of these losses, e.g. bce:none,focal, or a YAML list."),
    ] = None,
    address: Address = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train every member of an ensemble and write its bundle to OUTPUT/ensemble. The same command again continues."""
    with reporting(debug):
        settings = load_yaml(TrainConfig, config, overrides=tuple(overrides or ()))
        losses = None if compare is None else _losses(compare, settings)
        result = _rehearse(settings, losses) if dry_run else _train(settings, output, losses, address, debug=debug)
    print_result(result.to_dict(), result.lines(), as_json=as_json)


@app.command()
def score(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Files, folders, s3:// prefixes, or tables with a uri column."),
    ],
    ensemble: Annotated[str, typer.Option(help="Folder or s3:// prefix of the ensemble bundle.")],
    output: Annotated[str, typer.Option(help="Folder or s3:// prefix of the scores; the same one continues.")],
    heatmaps: Annotated[str | None, typer.Option(help="Findings with a heat map: positive, all or none.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, or bf16: faster where the device has it, probabilities within 0.01.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="torch, or onnx: faster on CPUs, same scores; needs cxr-ray[onnx].")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Score at most this many images now.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Leave out what was last modified before: 2026-11-01, 36h or 2d ago.")
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Only names that match, e.g. '*.dcm' or 'site 1/*'; may be repeated.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with scoring settings.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, e.g. batch_size=16; may be repeated.")
    ] = None,
    rescore: Annotated[bool, typer.Option(help="Add rows of another ensemble to an output that holds scores.")] = False,
    engine: Annotated[
        str | None,
        typer.Option(
            help="local: this machine alone, without Ray; ray: a cluster; auto, the default: ray with --address,"
            " RAY_ADDRESS or several GPUs, else local."
        ),
    ] = None,
    address: ScoringAddress = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Score every image that OUTPUT does not hold yet: one accounted row each. The same command again continues."""
    with reporting(debug):
        given = {
            "heatmaps": heatmaps,
            "since": since,
            "include": include,
            "engine": engine,
            "precision": precision,
            "runtime": runtime,
        }
        stated = tuple(f"{name}={json.dumps(value)}" for name, value in given.items() if value is not None)
        settings = _score_config(config, (*(overrides or ()), *stated))
        from cxr_ray.scoring.drain import stop_on_sigterm
        from cxr_ray.scoring.engine import needs_ray
        from cxr_ray.scoring.run import score as run_scoring

        session = (
            ray_session(address, debug=debug) if needs_ray(settings.engine, address) else redirect_stdout(sys.stderr)
        )
        with session, stop_on_sigterm() as stop:
            result = run_scoring(
                inputs,
                bundle=ensemble,
                output=output,
                config=settings,
                limit=limit,
                rescore=rescore,
                stop=stop,
                log=log_lines(),
            )
    print_result(result.to_dict(), result.lines(), as_json=as_json)
    _exit_for(result, settings)


@app.command()
def scan(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Files, folders, s3:// prefixes, or tables with a uri column."),
    ],
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="A .parquet or .csv file for one row per object.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read at most this many objects, the first listed.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with the scoring settings to foresee.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="One scoring setting, e.g. gate.min_side=100; may be repeated.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that parse headers; default: one per CPU.")] = None,
    cpus: Annotated[float | None, typer.Option(help="CPU cores whose wall time is estimated.")] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs whose wall time is estimated.")] = None,
    gpu_images_per_second: Annotated[
        float | None, typer.Option(help="Speed of your ensemble on one GPU, for the estimate.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Preflight: what is in an archive, what cannot be scored, and what scoring will cost. Reads headers only."""
    with reporting(debug, interrupted="Nothing was written."):
        settings = _score_config(config, tuple(overrides or ()))
        given = {"workers": workers, "cpus": cpus, "gpus": gpus, "gpu_images_per_second": gpu_images_per_second}
        stated = {name: value for name, value in given.items() if value is not None}
        scan_settings = parse(ScanConfig, stated, source="The command line")
        from cxr_ray.scoring.scan import scan as run_scan

        result = run_scan(
            inputs, config=settings, scan_config=scan_settings, output=output, limit=limit, log=log_lines()
        )
    print_result(result.to_dict(), result.lines(), as_json=as_json)
    if result.fault_share > settings.max_fault_share:
        raise typer.Exit(TOO_MANY_FAULTS)


@app.command()
def verify(
    output: Output,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Re-check the accounting of an output folder: every listed image has exactly one row."""
    from cxr_ray.scoring.verify import verify as check

    with reporting(debug):
        result = check(output)
    print_result(result.to_dict(), result.lines(), as_json=as_json)
    if result.problems:
        raise typer.Exit(FAILED)


@app.command()
def status(
    output: Output,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """How far the run on an output is, from its heartbeat; works from anywhere. 1 when it failed or fell silent."""
    from cxr_ray.scoring.heartbeat import read_status

    with reporting(debug):
        result = read_status(output)
    print_result(result.to_dict(), result.lines(), as_json=as_json)
    if result.is_silent or result.beat["state"] == "failed":
        raise typer.Exit(FAILED)


def _losses(text: str, settings: TrainConfig) -> tuple[LossConfig, ...]:
    """The losses that `--compare` names."""
    from cxr_ray.training.comparison import losses_of

    return losses_of(text, settings)


def _rehearse(settings: TrainConfig, losses: Sequence[LossConfig] | None) -> "Rehearsal":
    """What a dry run finds, of the ensemble or of a comparison of losses; starts no Ray."""
    from cxr_ray.training.comparison import rehearse_losses
    from cxr_ray.training.rehearsal import rehearse

    return rehearse(settings, log=log_lines()) if losses is None else rehearse_losses(settings, losses, log=log_lines())


def _train(
    settings: TrainConfig, output: str, losses: Sequence[LossConfig] | None, address: str | None, *, debug: bool
) -> "TrainResult | Comparison":
    """Train the ensemble, or compare losses."""
    from cxr_ray.training.comparison import compare
    from cxr_ray.training.trainer import train as run_training

    with ray_session(address, debug=debug):
        if losses is not None:
            return compare(settings, output, losses, log=log_lines())
        return run_training(settings, output, log=log_lines())


def _score_config(path: Path | None, overrides: tuple[str, ...]) -> ScoreConfig:
    """The scoring settings of a file, and of the command line."""
    if path is not None:
        return load_yaml(ScoreConfig, path, overrides=overrides)
    return parse(ScoreConfig, overridden({}, overrides), source="The scoring settings")


def _exit_for(result: "RunResult", settings: ScoreConfig) -> None:
    """Leave with 1 when the run does not add up, 143 when it was stopped, 3 when too many images faulted."""
    if not result.adds_up:
        raise typer.Exit(FAILED)
    if result.stopped:
        typer.echo(f"To go on: {shlex.join(sys.argv)}", err=True)
        raise typer.Exit(STOPPED)
    finished = result.scored + result.faulted
    if finished and result.faulted / finished > settings.max_fault_share:
        raise typer.Exit(TOO_MANY_FAULTS)
