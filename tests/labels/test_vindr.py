"""VinDr-CXR: three readers, their consensus, the official test table and boxes."""

from pathlib import Path

import numpy as np
import pytest

from cxr_ray.errors import ManifestError
from cxr_ray.labels.sources.vindr import read_boxes
from tests.labels.tables import manifest, source, write

TRAIN = [
    "image_id,rad_id,Aortic enlargement,Cardiomegaly,Pleural effusion,Other diseases,No finding",
    *("a1,R1,1,0,0,0,0", "a1,R2,1,0,0,0,0", "a1,R3,0,0,0,1,0"),
    *("b2,R8,0,0,0,0,1", "b2,R9,0,0,0,0,1", "b2,R10,0,0,0,0,1"),
    *("c3,R1,1,1,0,0,0", "c3,R2,0,1,,0,0"),
    *("d4,R4,0,1,,0,0",),
]
TEST = ["image_id,Aortic enlargement,Cardiomegaly,Pleural effusion,Other disease,No finding", "e5,1,0,1,1,0"]
ANNOTATIONS = [
    "image_id,rad_id,class_name,x_min,y_min,x_max,y_max",
    "a1,R1,Aortic enlargement,691.5,400,1000,650.5",
    "a1,R2,Aortic enlargement,700,410,990,640",
    "a1,R2,Aortic enlargement,10,10,20,20",
    "a1,R3,No finding,,,,",
    "b2,R8,No finding,,,,",
    "b2,R9,Cardiomegaly,1,2,3,5",
]


def vindr(folder: Path, **settings: object) -> dict[str, object]:
    return {
        "path": write(folder / "image_labels_train.csv", *TRAIN),
        "test_path": write(folder / "image_labels_test.csv", *TEST),
        **settings,
    }


def test_read_vindr_majority_of_readers_and_a_tie_is_not_stated(tmp_path):
    labelled = source("vindr", **vindr(tmp_path))
    assert labelled.findings == ("Aortic enlargement", "Cardiomegaly", "Pleural effusion", "Other diseases")
    frame = labelled.frame.set_index("name")
    np.testing.assert_array_equal(frame["Aortic enlargement"], [1, 0, np.nan, 0, 1])
    np.testing.assert_array_equal(frame["Cardiomegaly"], [0, 0, 1, 1, 0])
    np.testing.assert_array_equal(frame["Pleural effusion"], [0, 0, 0, np.nan, 1])
    np.testing.assert_array_equal(frame["Other diseases"], [0, 0, 0, 0, 1])
    assert frame["path"].tolist() == [f"train/{name}.dicom" for name in ("a1", "b2", "c3", "d4")] + ["test/e5.dicom"]
    assert frame["line"].tolist() == [2, 5, 8, 10, 2]


@pytest.mark.parametrize(("consensus", "expected"), [("any", [1, 0, 1, 0, 1]), ("all", [0, 0, 0, 0, 1])])
def test_read_vindr_one_reader_or_all_may_decide(tmp_path, consensus, expected):
    frame = source("vindr", **vindr(tmp_path, consensus=consensus)).frame
    np.testing.assert_array_equal(frame["Aortic enlargement"], expected)


def test_read_vindr_annotations_alone_give_labels_and_boxes(tmp_path):
    path = write(tmp_path / "annotations_train.csv", *ANNOTATIONS)
    labelled = source("vindr", path, boxes_path=path)
    assert labelled.findings == ("Aortic enlargement", "Cardiomegaly")
    np.testing.assert_array_equal(labelled.frame["Aortic enlargement"], [1, 0])
    np.testing.assert_array_equal(labelled.frame["Cardiomegaly"], [0, np.nan])
    boxes = read_boxes(path)
    assert boxes.iloc[0].tolist() == ["a1", "Aortic enlargement", 691.5, 400, 308.5, 250.5]
    assert len(boxes) == 4


def test_read_vindr_to_manifest_keeps_the_official_test_images(tmp_path):
    result = manifest("vindr", **vindr(tmp_path), layout="{folder}/{image_id}.png", shares=[0.5, 0.4, 0.1])
    parts = result.frame.set_index("uri")["part"]
    assert parts["s3://bucket/films/test/e5.png"] == "test"
    assert sorted(set(parts)) == ["test", "train", "validation"]


def test_read_vindr_repeated_reader_or_image_is_refused(tmp_path):
    files = vindr(tmp_path)
    write(tmp_path / "image_labels_test.csv", *TEST, "a1,0,0,0,0,0")
    with pytest.raises(ManifestError, match="images a1 are in"):
        source("vindr", **files)
    write(tmp_path / "image_labels_train.csv", *TRAIN, TRAIN[1])
    with pytest.raises(ManifestError, match="two rows of one reader for a1;"):
        source("vindr", **files)
    with pytest.raises(ManifestError, match=r"no column 'Pleural efusion' \(did you mean 'Pleural effusion'\?\)"):
        source("vindr", **vindr(tmp_path), findings=["Pleural efusion"])
