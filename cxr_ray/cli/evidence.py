"""The commands about what scores are worth, and what others make of them: evaluate, report, export."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cxr_ray.cli.terminal import (
    AsJson,
    Debug,
    Digest,
    ImageRoot,
    Output,
    UriColumn,
    app,
    log_lines,
    print_result,
    reporting,
)
from cxr_ray.errors import ConfigError


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
def export(
    output: Output,
    dicom: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder or s3:// prefix for reports, heat maps and boxes as DICOM."),
    ] = None,
    csv: Annotated[str | None, typer.Option(metavar="FILE", help="Flat table without heat maps.")] = None,
    positive: Annotated[
        bool, typer.Option("--positive", help="With --dicom: only images with a finding at or above its threshold.")
    ] = False,
    ensemble_digest: Digest = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Results for others: DICOM objects for a PACS that refer to the source images, or a CSV file."""
    with reporting(debug):
        if dicom is None and csv is None:
            raise ConfigError("Nothing to export; say where with --dicom DIR, --csv FILE or both.")
        exported: dict[str, Any] = {}
        lines: list[str] = []
        if csv is not None:
            from cxr_ray.evaluation.flat import export_csv

            flat = export_csv(output, csv, ensemble_digest=ensemble_digest)
            exported["csv"], lines = flat.to_dict(), flat.lines()
        if dicom is not None:
            from cxr_ray.evaluation.dicom_out import export_dicom

            objects = export_dicom(output, dicom, ensemble_digest=ensemble_digest, positive=positive, log=log_lines())
            exported["dicom"], lines = objects.to_dict(), [*lines, *objects.lines()]
    print_result(exported, lines, as_json=as_json)
