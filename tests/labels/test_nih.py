"""NIH ChestX-ray14: labels between bars, two official lists, boxes under a header that is no header."""

from pathlib import Path

import pandas as pd
import pytest

from cxr_ray.errors import ManifestError
from cxr_ray.labels.sources.nih import FINDINGS, read_boxes
from tests.labels.tables import NIH_HEADER, manifest, source, write

REAL = Path(__file__).parents[3] / "shared" / "data" / "nih64"
ROWS = [
    "00000001_000.png,Cardiomegaly,0,1,57,M,PA,2682,2749,0.143,0.143,",
    "00000001_001.png,Cardiomegaly|Emphysema,1,1,58,M,PA,2894,2729,0.143,0.143,",
    "00000002_000.png,No Finding,0,2,080Y,F,AP,2500,2048,0.171,0.171,",
    "00000003_000.png,Hernia|Infiltration,0,3,412,F,PA,2582,2991,0.143,0.143,",
    "00000004_000.png,Infiltration,0,4,009M,M,AP,2500,2048,0.168,0.168,",
    "00000005_000.png,No Finding,0,5,69,F,PA,2048,2500,0.168,0.168,",
    "00000006_000.png,Effusion,0,6,81,M,PA,2500,2048,0.168,0.168,",
]
TEST = [row.partition(",")[0] for row in ROWS[-2:]]
TRAIN = [row.partition(",")[0] for row in ROWS[:-2]]


def write_nih(folder: Path, rows: list[str] = ROWS, header: str = NIH_HEADER) -> str:
    return write(folder / "Data_Entry_2017_v2020.csv", header, *rows)


def lists(folder: Path, train: list[str] = TRAIN, test: list[str] = TEST) -> dict[str, str]:
    return {
        "train_list": write(folder / "train_val_list.txt", *train),
        "test_list": write(folder / "test_list.txt", *test),
    }


@pytest.mark.parametrize(
    "header", [NIH_HEADER, NIH_HEADER.rstrip(","), NIH_HEADER.replace("Patient Gender", "Patient Sex")]
)
def test_read_nih_releases_with_and_without_the_last_comma_read_the_same(tmp_path, header):
    labelled = source("nih14", write_nih(tmp_path, header=header))
    frame = labelled.frame.set_index("name")
    assert labelled.findings == FINDINGS
    assert len(FINDINGS) == 14
    assert frame.loc["00000001_001.png", ["Cardiomegaly", "Emphysema", "Edema"]].tolist() == [1, 1, 0]
    assert frame.loc["00000002_000.png", list(FINDINGS)].sum() == 0
    assert frame["sex"].tolist() == ["M", "M", "F", "F", "M", "F", "M"]
    assert frame["age"].tolist()[2] == 80
    assert frame["age"].isna().tolist() == [False, False, False, True, False, False, False]
    assert frame["age"].iloc[4] == pytest.approx(0.75)


def test_read_nih_official_lists_make_the_test_part_and_validation_comes_from_training(tmp_path):
    result = manifest("nih14", write_nih(tmp_path), **lists(tmp_path), shares=[0.5, 0.3, 0.2])
    parts = result.frame.assign(name=result.frame["uri"].str.rpartition("/")[2]).set_index("name")["part"]
    assert parts[parts == "test"].index.tolist() == TEST
    assert set(parts[TRAIN]) == {"train", "validation"}
    assert parts["00000001_000.png"] == parts["00000001_001.png"]


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ([*TRAIN, "00000009_000.png"], TEST, r"names 1 images that .* lacks, such as 00000009_000\.png;"),
        (TRAIN[1:], TEST, r"neither name 00000001_000\.png;"),
        (TRAIN, [*TEST, TRAIN[0]], r"both name 00000001_000\.png;"),
        (TRAIN[1:], [*TEST, TRAIN[0]], "the same patient is in two parts: 1;"),
    ],
)
def test_read_nih_lists_that_do_not_fit_are_refused(tmp_path, train, test, words):
    with pytest.raises(ManifestError, match=words):
        manifest("nih14", write_nih(tmp_path), **lists(tmp_path, train, test))


def test_read_nih_unknown_finding_or_label_is_named_with_a_near_one(tmp_path):
    with pytest.raises(ManifestError, match=r"has no finding 'Pleural Thickening' \(did you mean 'Pleural_Thickening'"):
        source("nih14", write_nih(tmp_path), findings=["Pleural Thickening"])
    broken = [ROWS[0].replace("Cardiomegaly", "Cardiomegalie"), *ROWS[1:]]
    with pytest.raises(ManifestError, match=r"holds 'Cardiomegalie' \(did you mean 'Cardiomegaly'\?\)"):
        source("nih14", write_nih(tmp_path, broken))
    with pytest.raises(ManifestError, match="no column 'Patient Age'"):
        source("nih14", write_nih(tmp_path, header=NIH_HEADER.replace("Patient Age", "Age")))


def test_read_nih_boxes_follow_the_images_of_the_manifest(tmp_path):
    header = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    boxes = write(
        tmp_path / "BBox_List_2017.csv",
        header,
        "00000003_000.png,Infiltrate,225.08,547.02,86.78,79.19,,,",
        "00000001_000.png,Cardiomegaly,10,20,30,40,,,",
        "00000099_000.png,Mass,10,20,30,40,,,",
    )
    result = manifest("nih14", write_nih(tmp_path), boxes_path=boxes, views=["PA"]).boxes
    rows = result.set_index("finding").loc[["Infiltration", "Cardiomegaly"]]
    assert rows["uri"].tolist() == ["s3://bucket/films/00000003_000.png", "s3://bucket/films/00000001_000.png"]
    assert rows[["x", "y", "width", "height"]].to_numpy().tolist() == [[225.08, 547.02, 86.78, 79.19], [10, 20, 30, 40]]
    assert len(result) == 2
    for few, number in (("Image Index,Finding Label", 0), ("Image Index,Finding Label,x,y,w", 3)):
        write(tmp_path / "BBox_List_2017.csv", few, "00000003_000.png,Mass" + ",1" * number)
        with pytest.raises(
            ManifestError, match=f"has {number} columns after Finding Label; it needs four, x, y, w and h"
        ):
            read_boxes(boxes)
    write(tmp_path / "BBox_List_2017.csv", "no,Image Index,Finding Label,x,y,w,h", "7,00000003_000.png,Mass,1,2,3,4")
    assert read_boxes(boxes).iloc[0].tolist() == ["00000003_000.png", "Mass", 1, 2, 3, 4]
    write(tmp_path / "BBox_List_2017.csv", header, "00000003_000.png,Mass,1,2,3,,,,")
    with pytest.raises(ManifestError, match="four numbers x, y, w, h"):
        read_boxes(boxes)
    for number in ("1e999", "9" * 400):
        write(tmp_path / "BBox_List_2017.csv", header, f"00000003_000.png,Mass,1,2,3,{number},,,")
        with pytest.raises(ManifestError, match="four numbers x, y, w, h"):
            read_boxes(boxes)


@pytest.mark.skipif(not REAL.exists(), reason="the 600 real radiographs are not here")
def test_read_csv_real_lists_and_real_columns_agree():
    from cxr_ray.config import ManifestConfig
    from cxr_ray.labels.manifest import read_manifest

    settings = {
        "path": str(REAL / "labels.csv"),
        "image_root": str(REAL / "images"),
        "uri_column": "image",
        "findings": FINDINGS,
        "one_class": "allow",
        "shares": (0.6, 0.2, 0.2),
        "view_column": "view",
    }
    wide = read_manifest(ManifestConfig.model_validate(settings), seed=1)
    listed = read_manifest(ManifestConfig.model_validate({**settings, "label_column": "finding_labels"}), seed=1)
    assert len(wide.frame) == 600
    pd.testing.assert_frame_equal(wide.frame, listed.frame)
    positives = wide.counts()
    assert (positives.loc[["train", "validation"]].drop(columns="Hernia") > 0).all(axis=None)
    assert set(read_boxes(str(REAL / "bbox_1024px.csv"))["finding"]) <= set(FINDINGS)
