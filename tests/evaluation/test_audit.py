"""The audit as its user runs it, on a tiny untrained ensemble and a few phantom films."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from cxr_ray import storage
from cxr_ray.cli import app
from cxr_ray.config import AuditConfig, LimitsConfig
from cxr_ray.evaluation.audit import audit
from cxr_ray.evaluation.localisation.marks import Marks
from cxr_ray.images.intake import Intake
from cxr_ray.images.phantom import FINDINGS, write_archive
from cxr_ray.models.ensemble import load_ensemble
from cxr_ray.scoring import rows, table
from cxr_ray.scoring.decoding import decode_block
from tests.conftest import PREPROCESS, make_bundle

METHODS = ["ensemble_gradcam", "a", "b", "c", "ensemble_gradcam++", "ensemble_layercam", "ensemble_eigencam"]
CONTROLS = ["control_random", "control_centre", "control_prior"]
FEW = AuditConfig(limit=10, num_draws=20, batch_size=4, sanity_images=3, faithfulness_images=3, faithfulness_steps=3)
MAPS_ONLY = AuditConfig(limit=4, num_draws=5, batch_size=4, sanity_images=0, faithfulness_images=0)


@pytest.fixture(scope="module")
def audited(tmp_path_factory) -> tuple[str, str, Path]:
    """Bundle, scores, and manifest of 24 phantom films."""
    import torch

    folder = tmp_path_factory.mktemp("audited")
    bundle = make_bundle(folder / "bundle", findings=FINDINGS)
    manifest = write_archive(folder / "archive", num_images=24, side=96, processes=1)
    ensemble = load_ensemble(bundle)
    spec = ensemble.spec
    contract = table.Contract(
        spec.findings, spec.members, spec.grid, PREPROCESS.size, spec.thresholds, spec.digest, spec.preprocess_digest
    )
    uris = [str(manifest.parent / uri) for uri in pd.read_csv(manifest)["uri"]]
    versions = [next(iter(storage.list_objects(uri))).version for uri in uris]
    items = [(uri, version, None) for uri, version in zip(uris, versions, strict=True)]
    decoded = decode_block(items, Intake(PREPROCESS, LimitsConfig()), alone=False)
    pixels, numbers = rows.stack_pixels(decoded, size=PREPROCESS.size)
    scores = ensemble.score(torch.from_numpy(pixels.copy()), with_heatmaps=True)
    scored = rows.score_rows(decoded, numbers, scores, contract, run_id="run", heatmaps="all")
    output = str(folder / "out")
    storage.put(table.file_uri(output, "20261123-000000-x", "0" * 16), table.encode(scored))
    return bundle, output, manifest


def call(*arguments):
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def test_audit_command_writes_json_and_table_and_says_both(audited, tmp_path):
    bundle, output, manifest = audited
    told = ("--ensemble", bundle, "--manifest", manifest, "--limit", 6, "-o", tmp_path)
    result = call(output, *told, "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values == json.loads((tmp_path / "audit.json").read_text())
    assert list(values["localisation"]) == METHODS + CONTROLS
    assert values["num_images"] == 6
    assert values["regions"] == "masks"
    assert values["best_member"] in ("a", "b", "c")
    assert values["sanity"]["steps"][0]["randomised"] == "the outputs"
    assert set(values["faithfulness"]) == {"ensemble_gradcam", *CONTROLS}
    assert len(values["faithfulness"]["ensemble_gradcam"]["deletion"]) == 11
    assert "without_lesion" in values["shortcuts"]["regimes"]
    rows_written = pq.read_table(tmp_path / "audit.parquet").to_pandas()
    manifested = pd.read_csv(manifest)
    uris = set(rows_written["uri"])
    marked = manifested[[str(manifest.parent / uri) in uris for uri in manifested["uri"]]]
    assert len(rows_written) == int(marked[list(FINDINGS)].to_numpy().sum()) * len(METHODS + CONTROLS)
    of_ensemble = rows_written[rows_written["method"] == "ensemble_gradcam"]
    found = values["localisation"]["ensemble_gradcam"]
    assert found["pointing_game"]["value"] == pytest.approx(of_ensemble["pointing_game"].mean())
    assert found["iobb"]["0.25"]["value"] == pytest.approx((of_ensemble["iobb"] >= 0.25).mean())
    assert found["num_maps"] == len(of_ensemble)
    assert (values["num_labelled"], values["num_scored"], values["num_unlabelled"]) == (24, 24, 0)
    assert values["clustered_by"] == "patient_id"
    again = call(output, *told)
    assert again.stdout.startswith("24 labelled images: 24 scored, 0 faulted, 0 without a row; 0 scored images without")
    assert values["verdict"] in again.stdout
    assert "middle of the film" in again.stdout


def test_audit_pointing_game_is_that_of_the_stored_maps(audited):
    bundle, output, manifest = audited
    found = audit(output, bundle, str(manifest), config=AuditConfig(**{**FEW.model_dump(), "limit": 99}))
    scores, contract = table.read_scores(output, wanted=["uri", "findings"])
    stored = {(row["uri"], one["finding"]): one for row in scores.to_pylist() for one in row["findings"]}
    rows_found = found.table.to_pandas()
    places = {row["uri"]: row for row in table.read_scores(output)[0].to_pylist()}
    masks = pd.read_csv(manifest).set_index("uri")["masks"]
    from cxr_ray.images.phantom import read_masks

    agreed = []
    for row in rows_found[rows_found["method"] == "ensemble_gradcam"].to_dict("records"):
        one = stored[row["uri"], row["finding"]]
        name = str(Path(row["uri"]).relative_to(manifest.parent))
        lesion = read_masks((manifest.parent / masks[name]).read_bytes())[FINDINGS.index(row["finding"])]
        hit = one["peak_row"] is not None and lesion[int(one["peak_row"]), int(one["peak_column"])]
        agreed.append(bool(hit) == bool(row["pointing_game"]))
        assert row["probability"] == pytest.approx(one["probability"], abs=1e-5)
        assert row["uri"] in places
    assert len(agreed) > 15
    assert np.mean(agreed) > 0.9  # the lesion's edge is one of a film pixel there, and of an input pixel here
    assert contract.findings == FINDINGS


def test_audit_shortcuts_are_sought_on_marked_and_unmarked_images(audited):
    bundle, output, manifest = audited
    found = audit(output, bundle, str(manifest), config=FEW)
    shortcuts = found.to_dict()["shortcuts"]
    marked = len(set(found.table["uri"].to_pylist()))
    labels = pd.read_csv(manifest)[list(FINDINGS)]
    unmarked = int((labels.sum(axis=1) == 0).sum())
    assert marked == FEW.limit
    assert shortcuts["num_images"] == marked + min(unmarked, FEW.limit)
    assert set(shortcuts["findings"]) == set(FINDINGS)
    assert set(found.shortcuts.lines()) <= set(found.lines())
    steps = [line.partition(" in random order: ")[0] for line in found.lines() if line.startswith("Rank correlation")]
    assert [steps[0], steps[-1]] == ["Rank correlation with the outputs", "Rank correlation with all weights"]


def test_audit_boxes_and_a_folder_of_masks_mark_the_same_lesion(audited, tmp_path):
    bundle, output, manifest = audited
    labels = pd.read_csv(manifest)
    name = labels.loc[labels["Cardiomegaly"] == 1, "uri"].iloc[0]
    with Image.open(manifest.parent / labels.set_index("uri")["masks"][name]) as image:
        width, height = image.size
    mask = np.zeros((height, width), np.uint8)
    mask[20:60, 30:70] = 255
    (tmp_path / "Cardiomegaly").mkdir()
    Image.fromarray(mask).save(tmp_path / "Cardiomegaly" / f"{Path(name).stem}.png")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f"Image Index,Finding Label,Bbox [x,y,w,h],a,b,c\n{Path(name).name},Cardiomegaly,60,40,80,80,,,\n")
    config = AuditConfig(**{**FEW.model_dump(), "limit": 99})
    by_mask = audit(output, bundle, str(manifest), config=config, marks=Marks(masks=tmp_path))
    frame = f"{2 * width}x{2 * height}"
    by_box = audit(output, bundle, str(manifest), config=config, marks=Marks(boxes=str(boxes), boxes_frame=frame))
    assert by_mask.table.equals(by_box.table)
    assert by_mask.table.num_rows == len(METHODS + CONTROLS)
    assert by_box.values["regions"] == "boxes"
    assert by_box.values["localisation"]["control_prior"]["num_maps"] == 0
    assert by_box.to_dict()["localisation"]["control_prior"]["miou"] == {"value": None, "low": None, "high": None}


def test_audit_lungs_are_those_of_the_column_or_of_a_folder(audited, tmp_path):
    bundle, output, manifest = audited
    (tmp_path / "lungs").mkdir()
    labels = pd.read_csv(manifest)
    for row in labels.to_dict("records"):
        with Image.open(manifest.parent / row["lungs"]) as image:
            Image.new("L", image.size, 200).save(tmp_path / "lungs" / f"{Path(row['uri']).stem}.png")
    places = {name: [str(manifest.parent / path) for path in labels[name]] for name in ("uri", "masks")}
    without = tmp_path / "labels.csv"
    labels.assign(**places).drop(columns="lungs").to_csv(without, index=False)
    named, given, fixed = (
        audit(output, bundle, str(table), config=MAPS_ONLY, lungs=lungs).to_dict()["shortcuts"]
        for table, lungs in ((manifest, None), (without, tmp_path / "lungs"), (without, None))
    )
    assert [found["regions"]["lungs"]["source"] for found in (named, given, fixed)] == ["masks", "masks", "fixed"]
    shares = [found["regions"]["lungs"]["mean_share"] for found in (named, given)]
    drawn = []
    for path in labels["lungs"]:
        with Image.open(manifest.parent / path) as image:
            drawn.append(np.asarray(image).mean())
    assert min(drawn) < shares[0] < max(drawn)
    assert shares[1] == 1.0
    assert any("give masks by --lungs" in note for note in fixed["notes"])
    assert not any("ellipses" in note for note in (*named["notes"], *given["notes"]))


def test_audit_says_which_images_have_no_label_and_which_no_row(audited, tmp_path):
    bundle, output, manifest = audited
    labels = pd.read_csv(manifest)
    places = {name: [str(manifest.parent / path) for path in labels[name]] for name in ("uri", "masks")}
    labels = labels.assign(**places).drop(columns="lungs").iloc[1:]
    unknown = labels.iloc[:1].assign(uri="/films/unknown.png", masks="")
    pd.concat([labels, unknown]).to_csv(tmp_path / "labels.csv", index=False)
    found = audit(output, bundle, str(tmp_path / "labels.csv"), config=MAPS_ONLY)
    counts = [found.to_dict()[f"num_{name}"] for name in ("labelled", "scored", "faulted", "unscored", "unlabelled")]
    assert counts == [24, 23, 0, 1, 1]
    assert "Note: 1 labelled image was not scored: /films/unknown.png." in found.lines()
    first = manifest.parent / pd.read_csv(manifest)["uri"][0]
    assert f"Note: 1 scored image has no label: {first}." in found.lines()


def test_audit_wrong_usage_is_one_sentence(audited, tmp_path):
    bundle, output, manifest = audited
    other = make_bundle(tmp_path / "other", seed=1, findings=FINDINGS)
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("Image Index,Finding Label,Bbox [x,y,w,h],a,b,c\nx.png,Mass,1,2,3,4,,,\n")
    (tmp_path / "plain.csv").write_text("uri,Mass\nx.png,1\n")
    wrong = {
        ("--ensemble", other, "--manifest", manifest): "give the bundle that wrote them",
        ("--ensemble", bundle, "--manifest", tmp_path / "plain.csv"): "is scored in",
        ("--ensemble", bundle, "--manifest", manifest, "--boxes", boxes): "None of the 1 boxes",
        ("--ensemble", bundle, "--manifest", manifest, "--boxes-frame", "9x9"): "says nothing without --boxes",
        ("--ensemble", bundle, "--manifest", manifest, "--boxes", boxes, "--masks", tmp_path): "give one of them",
        ("--ensemble", bundle, "--manifest", manifest, "--boxes", boxes, "--boxes-frame", "9"): "WIDTHxHEIGHT",
        ("--ensemble", bundle, "--manifest", manifest, "--patient-column", "patient"): "did you mean 'patient_id'",
        ("--ensemble", bundle, "--manifest", manifest, "--lungs", tmp_path): "holds no lung mask NAME.png",
    }
    for arguments, words in wrong.items():
        result = call(output, *arguments, "-o", tmp_path / "out")
        assert result.exit_code == 2
        assert words in result.output
        assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
