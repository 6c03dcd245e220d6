"""From scores to rows: where things lie on the film, and what faulted rows hold."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.errors import Fault
from cxr_ray.images.header import Header
from cxr_ray.images.intake import Decoded
from cxr_ray.images.preprocess import Placement
from cxr_ray.models.ensemble import load_ensemble
from cxr_ray.scoring.decoding import decoded_table
from cxr_ray.scoring.rows import locate, score_rows, stack_pixels
from cxr_ray.scoring.run import contract_of
from cxr_ray.scoring.table import rows_of
from tests.scoring.conftest import CONTRACT, write_rows

# A film of 200 x 100 pixels in a model input of 64: scale 3.125, padded by 16 model pixels left and right.
PLACEMENT = Placement(row_scale=3.125, row_offset=0.0, column_scale=3.125, column_offset=-50.0)


def test_locate_peak_and_box_are_in_pixels_of_the_film():
    heatmap = np.zeros((8, 8))
    heatmap[2, 3] = 1.0
    heatmap[2, 4] = heatmap[3, 3] = 0.6
    heatmap[7, 0] = 0.9  # another region, which the box leaves out
    found = locate(heatmap, 64, PLACEMENT, 200, 100)
    assert (found["peak_row"], found["peak_column"]) == (2.5 * 8 * 3.125, 3.5 * 8 * 3.125 - 50)
    assert found["box"] == {"top": 50.0, "left": 25.0, "bottom": 100.0, "right": 75.0}


def test_locate_peak_in_the_margin_moves_to_the_edge_of_the_film():
    heatmap = np.zeros((8, 8))
    heatmap[4, 7] = 1.0
    found = locate(heatmap, 64, PLACEMENT, 200, 100)
    assert found["peak_column"] == 99.5
    assert found["box"]["left"] == found["box"]["right"] == 100.0


@given(seed=st.integers(0, 500))
def test_locate_any_map_peak_lies_in_its_box_on_the_film(seed):
    heatmap = np.random.default_rng(seed).random((7, 7))
    found = locate(heatmap, 64, PLACEMENT, 200, 100)
    box = found["box"]
    assert 0 <= box["top"] <= found["peak_row"] <= box["bottom"] <= 200
    assert 0 <= box["left"] <= box["right"] <= 100
    assert 0 <= found["peak_column"] < 100


@pytest.fixture
def decoded():
    """Two films around one fault."""
    random = np.random.default_rng(0)
    header = Header(format="dicom", modality="DX", rows=200, columns=100, pixel_spacing_mm=(0.2, 0.3))
    good = Decoded(
        "/a.dcm",
        "1",
        fetch_seconds=0.1,
        decode_seconds=0.2,
        header=header,
        voi_source="window",
        placement=PLACEMENT,
        pixels=random.integers(0, 256, (64, 64), dtype=np.uint8),
    )
    fault = replace(
        good, uri="/b.dcm", placement=None, pixels=None, voi_source=None, fault=Fault.CORRUPT, fault_detail="Broken."
    )
    return decoded_table([good, fault, replace(good, uri="/c.dcm", pixels=good.pixels.T.copy())])


@pytest.mark.parametrize("heatmaps", ["all", "positive", "none"])
def test_score_rows_scored_and_faulted_rows_hold_what_the_table_says(bundle, decoded, heatmaps):
    ensemble = load_ensemble(bundle)
    contract = contract_of(ensemble.spec)
    images, places = stack_pixels(decoded, size=64)
    assert places.tolist() == [0, 2]
    scores = ensemble.score(torch.from_numpy(images.copy()), with_heatmaps=heatmaps != "none")
    rows = score_rows(decoded, places, scores, contract, run_id="r", heatmaps=heatmaps).to_pylist()
    assert [row["status"] for row in rows] == ["scored", "faulted", "scored"]
    assert rows[1]["fault"] == "corrupt"
    assert rows[1]["modality"] == "DX"
    assert all(rows[1][name] is None for name in ("probability_Mass", "votes_Mass", "member_probabilities", "findings"))
    for number, row in ((0, rows[0]), (1, rows[2])):
        assert row["probability_Pleural_Effusion"] == pytest.approx(float(scores.probabilities[number, 2]))
        assert row["votes_Nodule"] == int(scores.votes[number, 1])
        expected = scores.member_probabilities[:, number].flatten().tolist()
        assert row["member_probabilities"] == pytest.approx(expected)
        reported = {found["finding"]: found for found in row["findings"]}
        positive = {f for i, f in enumerate(contract.findings) if scores.probabilities[number, i] >= 0.5}
        assert set(reported) == (set(contract.findings) if heatmaps == "all" else positive)
        for index, finding in enumerate(contract.findings):
            if finding in reported and heatmaps != "none":
                found = np.frombuffer(reported[finding]["heatmap"], np.uint8).reshape(contract.grid, contract.grid)
                np.testing.assert_allclose(found / 255, scores.maps[number, index], atol=0.5 / 255 + 1e-6)
            elif finding in reported:
                assert reported[finding]["heatmap"] is None


def test_score_rows_only_faults_need_no_scores(bundle, decoded):
    contract = contract_of(load_ensemble(bundle).spec)
    rows = score_rows(decoded.slice(1, 1), np.array([], int), None, contract, run_id="r", heatmaps="all")
    assert rows["status"].to_pylist() == ["faulted"]
    assert rows["probability_Mass"].to_pylist() == [None]


def test_score_rows_member_heatmaps_kept_are_the_members_own_in_the_order_of_findings(bundle, decoded):
    ensemble = load_ensemble(bundle)
    contract = contract_of(ensemble.spec)
    images, places = stack_pixels(decoded, size=64)
    scores = ensemble.score(torch.from_numpy(images.copy()), with_heatmaps=True, keep_member_maps=True)
    rows = score_rows(decoded, places, scores, contract, run_id="r", heatmaps="positive").to_pylist()
    assert rows[1]["member_heatmaps"] is None
    for number, row in ((0, rows[0]), (1, rows[2])):
        assert len(row["member_heatmaps"]) == len(row["findings"])
        for maps, found in zip(row["member_heatmaps"], row["findings"], strict=True):
            own = np.frombuffer(maps, np.uint8).reshape(len(contract.members), contract.grid, contract.grid)
            index = contract.findings.index(found["finding"])
            np.testing.assert_allclose(own / 255, scores.member_maps[:, number, index], atol=0.5 / 255 + 1e-6)
            mean = np.frombuffer(found["heatmap"], np.uint8).reshape(contract.grid, contract.grid)
            np.testing.assert_allclose(own.mean(axis=0), mean, atol=1.0)
    assert sum(len(row["findings"]) for row in (rows[0], rows[2])) > 0


def test_score_rows_member_heatmaps_not_asked_for_are_null(bundle, decoded):
    ensemble = load_ensemble(bundle)
    images, places = stack_pixels(decoded, size=64)
    scores = ensemble.score(torch.from_numpy(images.copy()), with_heatmaps=True)
    rows = score_rows(decoded, places, scores, contract_of(ensemble.spec), run_id="r", heatmaps="all")
    assert rows["member_heatmaps"].null_count == rows.num_rows


def test_rows_of_file_without_member_heatmaps_reads_them_as_null(tmp_path):
    """A file as it was written before the column came, beside one with it."""
    uri = write_rows(str(tmp_path), "20261123T000000-a", [("/old.png", "1")])
    old = pq.read_table(uri)
    pq.write_table(old.drop_columns("member_heatmaps"), uri)
    write_rows(str(tmp_path), "20261124T000000-b", [("/new.png", "1")])
    assert "member_heatmaps" not in pq.read_schema(uri).names
    found = rows_of(str(tmp_path), wanted=["uri", "member_heatmaps"], contract=CONTRACT)
    assert sorted(found.to_pylist(), key=lambda row: row["uri"]) == [
        {"uri": "/new.png", "member_heatmaps": None},
        {"uri": "/old.png", "member_heatmaps": None},
    ]
