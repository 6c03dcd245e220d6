"""The commands about what scores are worth: evaluate, report, audit."""

from pathlib import Path
from typing import Annotated

import typer

from cxr_ray.cli.terminal import AsJson, Debug, Digest, ImageRoot, Output, UriColumn, app, print_result, reporting


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
def audit(
    output: Output,
    ensemble: Annotated[str, typer.Option(help="The bundle that wrote the scores.")],
    manifest: Annotated[str, typer.Option(help="CSV or Parquet table with labels per image.")],
    target: Annotated[Path, typer.Option("-o", "--output", help="Folder for audit.json and audit.parquet.")] = Path(
        "audit"
    ),
    masks: Annotated[
        Path | None, typer.Option(help="Folder of masks FINDING/NAME.png; default: the manifest's column masks.")
    ] = None,
    boxes: Annotated[str | None, typer.Option(help="Boxes in the form of NIH's BBox_List_2017.csv.")] = None,
    boxes_frame: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT of the images the boxes were drawn on; default: the films'.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most images with a marked lesion; default: 400.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes which patients are taken and all chance.")] = 0,
    uri_column: UriColumn = "uri",
    patient_column: Annotated[str, typer.Option(help="Column of the table with the patient.")] = "patient_id",
    image_root: ImageRoot = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Do the heat maps show the lesions, and what moves the scores: on images whose lesions are marked."""
    from cxr_ray.evaluation.audit import audit as run_audit
    from cxr_ray.evaluation.audit import settings, write_audit

    with reporting(debug):
        result = run_audit(
            output,
            ensemble,
            manifest,
            config=settings(limit=limit, seed=seed),
            masks=masks,
            boxes=boxes,
            boxes_frame=boxes_frame,
            uri_column=uri_column,
            image_root=image_root,
            patient_column=patient_column,
            device=device,
        )
        write_audit(result, str(target.absolute()))
    print_result(result.to_dict(), result.lines(), as_json=as_json)
