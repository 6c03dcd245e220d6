"""The commands about what scores are worth: evaluate, report."""

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
