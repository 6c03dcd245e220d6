"""The commands about what scores are worth: evaluate, report, drift."""

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from cxr_ray.cli.terminal import (
    DRIFTED,
    AsJson,
    Debug,
    Digest,
    ImageRoot,
    Output,
    UriColumn,
    app,
    print_result,
    reporting,
)


@app.command()
def evaluate(
    output: Output,
    manifest: Annotated[str, typer.Option(help="CSV or Parquet table with labels per image.")],
    uri_column: UriColumn = "uri",
    image_root: ImageRoot = None,
    ensemble_digest: Digest = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Metrics of a scored set against its labels, per finding and macro. Loads no model."""
    from cxr_ray.evaluation.cohort import evaluate_scores

    with reporting(debug):
        result = evaluate_scores(
            output, manifest, uri_column=uri_column, image_root=image_root, ensemble_digest=ensemble_digest
        )
    print_result(result.to_dict(), result.lines(), as_json=as_json)


@app.command()
def report(
    output: Output,
    target: Annotated[Path, typer.Option("-o", "--output", help="The HTML file to write.")] = Path("report.html"),
    manifest: Annotated[
        str | None, typer.Option(help="Table with labels per image, to show truth and metrics.")
    ] = None,
    evaluation: Annotated[Path | None, typer.Option(help="What `cxr-ray evaluate --json` printed.")] = None,
    audit: Annotated[Path | None, typer.Option(help="What `cxr-ray audit` wrote.")] = None,
    drift: Annotated[Path | None, typer.Option(help="What `cxr-ray drift --json` printed.")] = None,
    uri_column: UriColumn = "uri",
    image_root: ImageRoot = None,
    images: Annotated[int, typer.Option(min=0, help="Most images in the gallery.")] = 60,
    ensemble_digest: Digest = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """One self-contained HTML file: accounting, evidence, and a gallery of heat maps on radiographs."""
    from cxr_ray.evaluation.cohort import evaluate_scores
    from cxr_ray.evaluation.documents import read_document
    from cxr_ray.evaluation.report import write_report

    with reporting(debug):
        found = None
        if manifest is not None:
            found = evaluate_scores(
                output, manifest, uri_column=uri_column, image_root=image_root, ensemble_digest=ensemble_digest
            )
        summary = write_report(
            output,
            target.absolute(),
            ensemble_digest=ensemble_digest,
            evaluation=read_document(evaluation) if evaluation else None,
            audit=read_document(audit) if audit else None,
            drift=read_document(drift) if drift else None,
            truth=found.truth if found else None,
            max_images=images,
        )
    print_result(summary.to_dict(), summary.lines(), as_json=as_json)


@app.command()
def drift(
    reference: Annotated[str, typer.Argument(metavar="OUT_A", help="Folder or s3:// prefix of the reference scores.")],
    current: Annotated[
        str | None, typer.Argument(metavar="OUT_B", help="Those to compare with them; default: OUT_A itself.")
    ] = None,
    reference_run: Annotated[list[str] | None, typer.Option(help="Only this run of OUT_A; may be repeated.")] = None,
    current_run: Annotated[
        list[str] | None,
        typer.Option(help="Only this run of OUT_B, in one output against all others; may be repeated."),
    ] = None,
    reference_before: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Runs of the days before this one (UTC) against those from it on."),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Group by this column; may be repeated; default: view and manufacturer."),
    ] = None,
    max_psi: Annotated[
        float, typer.Option(min=0.0, help="Population stability index above which a change is drift.")
    ] = (0.25),
    min_rows: Annotated[int, typer.Option(min=2, help="Scored rows that both sides, and both of a group, need.")] = 200,
    fail: Annotated[bool, typer.Option("--fail", help="Exit with 4 when there is drift.")] = False,
    target: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the result to this JSON file too.")
    ] = None,
    ensemble_digest: Digest = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Have scores, agreement, faults or headers changed between two scored sets? Loads no model."""
    from cxr_ray import storage
    from cxr_ray.config import DriftConfig
    from cxr_ray.evaluation.comparing import BY, compare_outputs
    from cxr_ray.evaluation.sides import Choice

    before = reference_before.date() if reference_before else None
    with reporting(debug):
        result = compare_outputs(
            reference,
            current or reference,
            config=DriftConfig(max_psi=max_psi, min_rows=min_rows),
            choice=Choice(tuple(reference_run or ()), tuple(current_run or ()), before),
            by=by or BY,
            ensemble_digest=ensemble_digest,
        )
        if target is not None:
            storage.put(str(target.absolute()), json.dumps(result.to_dict(), indent=2).encode())
    print_result(result.to_dict(), result.lines(), as_json=as_json)
    if fail and result.drifted:
        raise typer.Exit(DRIFTED)
