"""The commands about what scores are worth: evaluate, report."""

from pathlib import Path
from typing import Annotated

import typer

from cxr_ray import storage
from cxr_ray.cli.terminal import AsJson, Debug, Digest, ImageRoot, Output, UriColumn, app, print_result, reporting


@app.command()
def evaluate(
    output: Output,
    manifest: Annotated[str, typer.Option(help="CSV or Parquet table with labels per image.")],
    target: Annotated[
        str | None, typer.Option("-o", "--output", help="Folder for evaluation.json and the Parquet tables.")
    ] = None,
    uri_column: UriColumn = "uri",
    image_root: ImageRoot = None,
    patient_column: Annotated[
        str | None, typer.Option(help="Column of the table with the patient; default: patient_id, where there is one.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Column whose groups are compared; repeatable; default: sex, age, view, manufacturer."),
    ] = None,
    draws: Annotated[int, typer.Option(min=0, help="Draws of patients for the intervals; 0 for none.")] = 1000,
    ensemble_digest: Digest = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Metrics of a scored set against its labels with intervals: findings, rules, subgroups. Loads no model."""
    from cxr_ray.evaluation.evaluate import evaluate

    with reporting(debug):
        result = evaluate(
            output,
            manifest,
            uri_column=uri_column,
            image_root=image_root,
            ensemble_digest=ensemble_digest,
            patient_column=patient_column,
            by=by or (),
            num_draws=draws,
        )
        if target is not None:
            result.write(storage.absolute(target))
    print_result(result.to_dict(), result.lines(), as_json=as_json)


@app.command()
def report(
    output: Output,
    target: Annotated[Path, typer.Option("-o", "--output", help="The HTML file to write.")] = Path("report.html"),
    manifest: Annotated[
        str | None, typer.Option(help="Table with labels per image, to show truth and metrics.")
    ] = None,
    uri_column: UriColumn = "uri",
    image_root: ImageRoot = None,
    images: Annotated[int, typer.Option(min=0, help="Most images in the gallery.")] = 60,
    ensemble_digest: Digest = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """One self-contained HTML file: accounting, score distributions, and a gallery of heat maps on radiographs."""
    from cxr_ray.evaluation.evaluate import evaluate
    from cxr_ray.evaluation.report import write_report

    with reporting(debug):
        evaluation = None
        if manifest is not None:
            evaluation = evaluate(
                output, manifest, uri_column=uri_column, image_root=image_root, ensemble_digest=ensemble_digest
            )
        summary = write_report(
            output,
            target.absolute(),
            ensemble_digest=ensemble_digest,
            truth=evaluation.truth if evaluation else None,
            metrics=evaluation.metrics if evaluation else None,
            max_images=images,
        )
    print_result(summary.to_dict(), summary.lines(), as_json=as_json)
