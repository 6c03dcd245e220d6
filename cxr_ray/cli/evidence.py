"""The commands about what scores are worth: evaluate, calibrate, audit, drift, report, export."""

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

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
    log_lines,
    print_result,
    reporting,
)
from cxr_ray.config import CalibrationMethod
from cxr_ray.errors import ConfigError

MasksFolder = Annotated[
    Path | None, typer.Option(help="Folder of lesion masks FINDING/NAME.png; default: the manifest's column masks.")
]
BoxesTable = Annotated[str | None, typer.Option(help="Lesion boxes in the form of NIH's BBox_List_2017.csv.")]
BoxesFrame = Annotated[
    str | None,
    typer.Option(
        help="WIDTHxHEIGHT of the images the boxes were drawn on, or film; default: NIH's 1024x1024, for films of it."
    ),
]
PatientColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the table with the patient; default: patient_id, and without it the scores' patient_key."
    ),
]


@app.command()
def evaluate(
    output: Output,
    manifest: Annotated[str, typer.Option(help="CSV or Parquet table with labels per image.")],
    target: Annotated[
        str | None, typer.Option("-o", "--output", help="Folder for evaluation.json and the Parquet tables.")
    ] = None,
    uri_column: UriColumn = "uri",
    image_root: ImageRoot = None,
    patient_column: PatientColumn = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Column whose groups are compared; repeatable; default: sex, age, view, manufacturer."),
    ] = None,
    masks: MasksFolder = None,
    boxes: BoxesTable = None,
    boxes_frame: BoxesFrame = None,
    draws: Annotated[int, typer.Option(min=0, help="Draws of patients for the intervals; 0 for none.")] = 1000,
    ensemble_digest: Digest = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Metrics of a scored set against its labels with intervals: findings, rules, subgroups. Loads no model."""
    from cxr_ray.evaluation.evaluate import evaluate
    from cxr_ray.evaluation.localisation.marks import Marks

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
            marks=Marks(masks, boxes, boxes_frame),
        )
        if target is not None:
            from cxr_ray import storage

            result.write(storage.absolute(target))
    print_result(result.to_dict(), result.lines(), as_json=as_json)


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
    patient_column: PatientColumn = None,
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


@app.command()
def audit(
    output: Output,
    ensemble: Annotated[str, typer.Option(help="The bundle that wrote the scores.")],
    manifest: Annotated[str, typer.Option(help="CSV or Parquet table with labels per image.")],
    target: Annotated[Path, typer.Option("-o", "--output", help="Folder for audit.json and audit.parquet.")] = Path(
        "audit"
    ),
    masks: MasksFolder = None,
    boxes: BoxesTable = None,
    boxes_frame: BoxesFrame = None,
    lungs: Annotated[
        Path | None, typer.Option(help="Folder of lung masks NAME.png; default: the manifest's column lungs.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most images with a marked lesion; default: 400.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes which patients are taken and all chance.")] = 0,
    uri_column: UriColumn = "uri",
    patient_column: PatientColumn = None,
    image_root: ImageRoot = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Do the heat maps show the lesions, and what moves the scores: on images whose lesions are marked."""
    from cxr_ray.evaluation.audit import audit as run_audit
    from cxr_ray.evaluation.audit import settings, write_audit
    from cxr_ray.evaluation.localisation.marks import Marks

    with reporting(debug):
        result = run_audit(
            output,
            ensemble,
            manifest,
            config=settings(limit=limit, seed=seed),
            marks=Marks(masks, boxes, boxes_frame),
            uri_column=uri_column,
            image_root=image_root,
            patient_column=patient_column,
            lungs=lungs,
            device=device,
        )
        write_audit(result, str(target.absolute()))
    print_result(result.to_dict(), result.lines(), as_json=as_json)


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
    from cxr_ray.config import DriftConfig
    from cxr_ray.evaluation.drift.comparing import BY, compare_outputs
    from cxr_ray.evaluation.drift.sides import Choice

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
            from cxr_ray import storage

            storage.put(str(target.absolute()), json.dumps(result.to_dict(), indent=2).encode())
    print_result(result.to_dict(), result.lines(), as_json=as_json)
    if fail and result.drifted:
        raise typer.Exit(DRIFTED)


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
    from cxr_ray.evaluation.evaluate import evaluate
    from cxr_ray.evaluation.report.documents import read_document
    from cxr_ray.evaluation.report.html import write_report

    with reporting(debug):
        found = None
        if manifest is not None:
            found = evaluate(
                output, manifest, uri_column=uri_column, image_root=image_root, ensemble_digest=ensemble_digest
            )
        measured = found.to_dict() if found else None
        summary = write_report(
            output,
            target.absolute(),
            ensemble_digest=ensemble_digest,
            evaluation=read_document(evaluation) if evaluation else measured,
            audit=read_document(audit) if audit else None,
            drift=read_document(drift) if drift else None,
            truth=found.truth if found else None,
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
