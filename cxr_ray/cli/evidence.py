"""The commands about what scores are worth: evaluate, report, calibrate."""

from pathlib import Path
from typing import Annotated

import typer

from cxr_ray.cli.terminal import AsJson, Debug, Digest, ImageRoot, Output, UriColumn, app, print_result, reporting
from cxr_ray.config import CalibrationMethod


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
    uri_column: UriColumn = "uri",
    image_root: ImageRoot = None,
    images: Annotated[int, typer.Option(min=0, help="Most images in the gallery.")] = 60,
    ensemble_digest: Digest = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """One self-contained HTML file: accounting, score distributions, and a gallery of heat maps on radiographs."""
    from cxr_ray.evaluation.cohort import evaluate_scores
    from cxr_ray.evaluation.report import write_report

    with reporting(debug):
        evaluation = None
        if manifest is not None:
            evaluation = evaluate_scores(
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


@app.command()
def calibrate(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Folder or s3:// prefix of the ensemble bundle.")],
    scores: Annotated[str, typer.Option(help="Folder or s3:// prefix of scores that this bundle made.")],
    manifest: Annotated[str, typer.Option(help="CSV or Parquet table with labels per image.")],
    output: Annotated[str, typer.Option("-o", "--output", help="Folder or s3:// prefix of the new bundle.")],
    method: Annotated[
        CalibrationMethod,
        typer.Option(help="auto (chosen per finding), platt, temperature, isotonic, or keep: thresholds only."),
    ] = "auto",
    rule: Annotated[
        str,
        typer.Option(help="f1, youden, sensitivity>=0.95, specificity>=0.9, alerts<=5 (of 100 images), or 0.5."),
    ] = "f1",
    threshold: Annotated[
        list[str] | None, typer.Option(metavar="FINDING=RULE", help="The rule of one finding; may be repeated.")
    ] = None,
    min_positives: Annotated[
        int, typer.Option(min=2, help="Positives, and negatives, below which a finding stays as it is.")
    ] = 20,
    patient_column: Annotated[str, typer.Option(help="Column of the table with the patient.")] = "patient_id",
    uri_column: UriColumn = "uri",
    image_root: ImageRoot = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Fit calibration and thresholds to a new site's labels, into a new bundle. Loads no model and trains nothing."""
    from cxr_ray.calibrate import calibrate as fit_site

    with reporting(debug, interrupted="No bundle was written; the same command begins anew."):
        result = fit_site(
            bundle,
            scores=scores,
            manifest=manifest,
            output=output,
            method=method,
            rule=rule,
            overrides=threshold or (),
            min_positives=min_positives,
            patient_column=patient_column,
            uri_column=uri_column,
            image_root=image_root,
        )
    print_result(result.to_dict(), result.lines(), as_json=as_json)
