"""`cxr-ray calibrate` from its command line: a bundle, scores of it, and a new site's labels."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner, Result

from cxr_ray import storage
from cxr_ray.cli import app
from cxr_ray.models.calibration import calibration_errors
from cxr_ray.models.ensemble import EnsembleSpec, load_ensemble, load_ensemble_spec
from cxr_ray.models.refit import combined
from cxr_ray.scoring.table import Contract, encode, schema
from cxr_ray.site import read_site
from tests.conftest import FINDINGS

NUM_IMAGES = 900


def contract(spec: EnsembleSpec) -> Contract:
    return Contract(spec.findings, spec.members, spec.grid, 64, spec.thresholds, spec.digest, spec.preprocess_digest)


def site_of(num_images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Member probabilities (N, M, F), overconfident and shifted, and labels (N, F); Nodule has 5 positives."""
    random = np.random.default_rng(seed)
    logits = random.normal(-1.0, 1.5, (num_images, 1, len(FINDINGS)))
    labels = (random.random((num_images, len(FINDINGS))) < 1 / (1 + np.exp(-logits[:, 0]))).astype(float)
    labels[:, 1] = np.arange(num_images) < 5
    noise = random.normal(0, 0.3, (num_images, 3, len(FINDINGS)))
    return (1 / (1 + np.exp(-(2.5 * logits + 2 + noise)))).astype(np.float32), labels


def write_site(
    folder: Path,
    spec: EnsembleSpec,
    members: np.ndarray,
    labels: np.ndarray,
    *,
    keyed: bool = False,
    without: tuple[int, ...] = (),
) -> None:
    """OUT/scores with one file, the last image faulted, and labels.csv, which lacks Pacemaker.

    `keyed`: rows name their patient; `without`: images whose row lacks the members' probabilities.
    """
    rows = [
        {
            "uri": str(folder / f"{number}.png"),
            "object_version": "1",
            "status": "scored" if number < len(members) - 1 else "faulted",
            "member_probabilities": values.ravel().tolist()
            if number < len(members) - 1 and number not in without
            else None,
            "ensemble_digest": spec.digest,
            "preprocess_digest": spec.preprocess_digest,
            "run_id": "run",
            "scored_at": datetime(2026, 11, 23, tzinfo=UTC),
            "patient_key": f"key {number // 3}" if keyed else None,
        }
        for number, values in enumerate(members)
    ]
    table = encode(pa.Table.from_pylist(rows, schema=schema(contract(spec))))
    storage.put(str(folder / "out" / "scores" / "run.parquet"), table)
    frame = pd.DataFrame(labels, columns=list(FINDINGS)).drop(columns="Pacemaker")
    frame["uri"] = [f"{number}.png" for number in range(len(frame))]
    frame["patient_id"] = np.arange(len(frame)) // 3
    # In another order than the scores, so that labels must find their image by name.
    frame.iloc[::-1].to_csv(folder / "labels.csv", index=False)


@pytest.fixture
def site(bundle: str, tmp_path: Path) -> Path:
    write_site(tmp_path, load_ensemble_spec(bundle), *site_of(NUM_IMAGES, seed=0))
    return tmp_path


def call(bundle: str, site: Path, *arguments: str, output: str | None = None) -> Result:
    given = ["--scores", site / "out", "--manifest", site / "labels.csv", "-o", output or site / "new", *arguments]
    return CliRunner().invoke(app, ["calibrate", bundle, *map(str, given)])


def test_calibrate_new_site_new_bundle_is_calibrated_on_images_it_has_not_seen(bundle, site):
    result = call(bundle, site, "--json", "--rule", "sensitivity>=0.9", "--threshold", "Mass=youden")
    assert result.exit_code == 0, result.output
    told, old, new = json.loads(result.stdout), load_ensemble_spec(bundle), load_ensemble(str(site / "new")).spec
    assert told["from_digest"] == old.digest != told["ensemble_digest"] == new.digest
    assert (told["num_images"], told["num_patients"]) == (NUM_IMAGES - 1, NUM_IMAGES // 3)
    members, labels = site_of(4000, seed=1)
    tensor = torch.from_numpy(members).transpose(0, 1)
    before, after = (
        np.array(calibration_errors(combined(spec, tensor).double().numpy(), labels)) for spec in (old, new)
    )
    for index in (0, 2, 4):
        assert after[index] < 0.04 < 0.1 < before[index]
        finding = told["findings"][FINDINGS[index]]
        assert finding["after"]["calibration_error"] < finding["before"]["calibration_error"] / 2
        assert finding["after"]["log_loss"] < finding["before"]["log_loss"]
    unseen = combined(new, tensor).numpy()[:, 2] >= np.float32(new.thresholds[2])
    assert unseen[labels[:, 2] == 1].mean() == pytest.approx(0.9, abs=0.05)
    assert told["findings"]["Pleural Effusion"]["after"]["sensitivity"] == pytest.approx(0.9, abs=0.03)
    assert new.threshold_rules["Mass"] == "youden"
    assert new.training["recalibrated"]["from"] == old.digest


def test_calibrate_findings_with_few_or_no_labels_keep_what_they_have_and_are_named(bundle, site):
    result = call(bundle, site)
    old, new = load_ensemble_spec(bundle), load_ensemble_spec(str(site / "new"))
    for index, sentence in ((1, "5 positive and 894 negative"), (3, "0 positive and 0 negative")):
        assert f"{FINDINGS[index]} keeps its calibration: {sentence} images are too few." in result.stdout
        assert new.calibration.scalings[index] == old.calibration.scalings[index]
        assert new.thresholds[index] == old.thresholds[index]
        assert [row[index] for row in new.member_thresholds] == [row[index] for row in old.member_thresholds]
    assert "--rescore" in result.stdout
    card = (site / "new" / "README.md").read_text()
    assert (
        f"Recalibrated on 899 images of 300 patients at {datetime.now(UTC):%Y-%m-%d} from the ensemble {old.digest}"
        in card
    )
    assert "| Mass | " in card
    assert (Path(bundle) / "README.md").read_text().splitlines()[-1] in card


def test_calibrate_without_patients_each_image_counts_and_the_result_says_so(bundle, site):
    table = pd.read_csv(site / "labels.csv").drop(columns="patient_id")
    table.to_csv(site / "labels.csv", index=False)
    result = call(bundle, site, "--method", "keep")
    assert "Recalibrated on 899 images (patients unknown)" in result.stdout
    assert "Note: The table has no column patient_id: each image counts as a patient" in result.stdout
    assert load_ensemble_spec(str(site / "new")).calibration == load_ensemble_spec(bundle).calibration


def test_calibrate_labels_without_patients_take_those_of_the_scores(bundle, tmp_path):
    spec = load_ensemble_spec(bundle)
    write_site(tmp_path, spec, *site_of(90, seed=0), keyed=True)
    pd.read_csv(tmp_path / "labels.csv").drop(columns="patient_id").to_csv(tmp_path / "labels.csv", index=False)
    read = {"bundle": bundle, "uri_column": "uri", "image_root": None, "patient_column": None}
    site = read_site(spec, str(tmp_path / "out"), str(tmp_path / "labels.csv"), **read)
    assert (site.clustered_by, len(set(site.patients.tolist()))) == ("patient_key", 30)
    # Rows are in order of uri, "10.png" before "2.png"; images 0 to 2 are of one patient.
    uris = sorted(str(tmp_path / f"{number}.png") for number in range(89))
    owner = dict(zip(uris, site.patients.tolist(), strict=True))
    for number in range(89):
        assert owner[str(tmp_path / f"{number}.png")] == owner[str(tmp_path / f"{number // 3 * 3}.png")]
    told = json.loads(call(bundle, tmp_path, "--json", "--method", "keep", "--min-positives", "5").stdout)
    assert (told["num_patients"], told["clustered_by"]) == (30, "patient_key")


def test_calibrate_labels_and_scores_that_do_not_meet_are_counted_and_named(bundle, tmp_path):
    spec = load_ensemble_spec(bundle)
    write_site(tmp_path, spec, *site_of(200, seed=0), without=(3, 5))
    table = pd.read_csv(tmp_path / "labels.csv")
    kept = table[~table["uri"].isin(["0.png", "1.png"])]
    pd.concat([kept, kept.head(1).assign(uri="unknown.png")]).to_csv(tmp_path / "labels.csv", index=False)
    keep = ("--method", "keep", "--min-positives", "5")
    told = json.loads(call(bundle, tmp_path, "--json", *keep, output=str(tmp_path / "a")).stdout)
    counts = [told[f"num_{name}"] for name in ("labelled", "scored", "faulted", "unscored", "unlabelled")]
    assert counts == [199, 197, 1, 1, 2]
    assert told["num_images"] == 195
    said = (
        f"1 labelled image was not scored: {tmp_path}/unknown.png.",
        f"2 scored images have no label: {tmp_path}/0.png, {tmp_path}/1.png.",
        f"2 scored images lack the members' probabilities and take no part: {tmp_path}/3.png, {tmp_path}/5.png.",
    )
    assert told["notes"] == list(said)
    lines = call(bundle, tmp_path, *keep).stdout.splitlines()
    assert lines[0] == ("199 labelled images: 197 scored, 1 faulted, 1 without a row; 2 scored images without a label.")
    assert {f"Note: {note}" for note in said} <= set(lines)


def test_calibrate_scores_without_any_members_probabilities_are_one_sentence(bundle, tmp_path):
    write_site(tmp_path, load_ensemble_spec(bundle), *site_of(9, seed=0), without=tuple(range(9)))
    result = call(bundle, tmp_path)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert f"such as {tmp_path}/0.png, has the members' probabilities to calibrate by; score" in result.stderr


def test_calibrate_into_an_object_store(bundle, site, s3):
    target = f"{s3}/new"
    assert call(bundle, site, "--method", "platt", output=target).exit_code == 0
    assert load_ensemble(target).spec.digest != load_ensemble_spec(bundle).digest
    again = call(bundle, site, output=target)
    assert (again.exit_code, again.stderr) == (
        2,
        f"Error: {target} holds a bundle already; choose another --output for the new one.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rule", "f2"], "'f2' is no threshold rule; use f1, youden"),
        (
            ["--threshold", "Mass"],
            "--threshold takes FINDING=RULE with a finding of the bundle, not 'Mass'; it has Mass,",
        ),
        (["--threshold", "Hernia=f1"], "with a finding of the bundle, not 'Hernia=f1'"),
        (
            ["--threshold", "Nodule=sensitivity>=0.9"],
            "The threshold of Nodule cannot be chosen by sensitivity>=0.9: it has 5 positive and 894 negative images,",
        ),
        (["--patient-column", "who"], "has no column 'who'; its columns are Mass, Nodule,"),
        (["--patient-column", "patient"], "has no column 'patient' (did you mean 'patient_id'?); its columns are"),
        (["--uri-column", "file"], "has no column 'file'; its columns are"),
        (["--image-root", "/elsewhere"], "is scored in"),
        (
            ["--min-positives", "600"],
            "None of the 5 findings has 600 positive and as many negative images among the 899",
        ),
    ],
)
def test_calibrate_bad_input_is_one_sentence_and_no_bundle(arguments, words, bundle, site):
    result = call(bundle, site, *arguments)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert not (site / "new").exists()


def test_calibrate_scores_of_another_ensemble_are_refused(bundle, site):
    path = site / "other" / "ensemble.json"
    call(bundle, site, output=str(site / "other"))
    result = call(str(path.parent), site)
    old, other = load_ensemble_spec(bundle), load_ensemble_spec(str(path.parent))
    assert result.exit_code == 2
    assert (
        f"holds scores of {old.digest}, and none of {site / 'other'}, whose digest is {other.digest};" in result.stderr
    )


def test_calibrate_image_with_two_rows_of_labels_is_refused(bundle, site):
    table = pd.read_csv(site / "labels.csv")
    pd.concat([table, table.head(1)]).to_csv(site / "labels.csv", index=False)
    assert "has 1 row too many, first for" in call(bundle, site).stderr


def test_calibrate_the_same_again_changes_nothing_and_says_so(bundle, site):
    result = call(bundle, site, "--method", "keep", "--rule", "0.5")
    assert "has this calibration and these thresholds already; no bundle was written." in result.stderr
