"""Any CSV: lists in one column, uncertain labels, columns for subgroups."""

import re

import numpy as np
import pytest

from cxr_ray.errors import ManifestError
from tests.labels.tables import manifest, source, write

LISTS = [
    "uri,patient_id,what,sex,age,view",
    '1.png,1,"Mass; Nodule ",f,61,PA',
    "2.png,2,none,Male,,AP",
    "3.png,3,,x,nan,PA",
    '4.png,4,"Nodule;;Other",M,130,LL',
]


def test_read_csv_label_list_blank_is_not_stated_and_other_names_are_ignored(tmp_path):
    path = write(tmp_path / "t.csv", *LISTS)
    settings = {"findings": ["Mass", "Nodule"], "label_column": "what", "label_separator": ";"}
    frame = source("csv", path, **settings, sex_column="sex", age_column="age").frame
    np.testing.assert_array_equal(frame[["Mass", "Nodule"]], [[1, 1], [0, 0], [np.nan, np.nan], [0, 1]])
    assert frame["sex"].tolist() == ["F", "M", "", "M"]
    np.testing.assert_array_equal(frame["age"], [61, np.nan, np.nan, np.nan])
    assert source("csv", path, **settings, view_column="view", views=["PA"]).frame["name"].tolist() == [
        "1.png",
        "3.png",
    ]


def test_read_csv_label_list_that_never_names_a_finding_is_refused(tmp_path):
    path = write(tmp_path / "t.csv", *LISTS)
    with pytest.raises(ManifestError, match=r"names 'Noduel' \(did you mean 'Nodule'\?\); check .* separator ';'"):
        source("csv", path, findings=["Mass", "Noduel"], label_column="what", label_separator=";")


def test_read_csv_uncertain_labels_need_a_policy(tmp_path):
    path = write(
        tmp_path / "t.csv", "uri,patient_id,A,B", "1.png,1,-1,1", "2.png,2,0,-1.0", "3.png,3,1,", "4.png,4,1,0"
    )
    with pytest.raises(
        ManifestError, match=r"A must be 1, 0 or blank, but holds '-1' \(line 2\);.*manifest\.uncertain"
    ):
        manifest("csv", path, findings=["A", "B"])
    frame = source("csv", path, findings=["A", "B"], uncertain="ones", uncertain_findings={"B": "ignore"}).frame
    np.testing.assert_array_equal(frame[["A", "B"]], [[1, 1], [0, np.nan], [1, np.nan], [1, 0]])


def test_read_csv_layout_builds_paths_from_columns(tmp_path):
    path = write(tmp_path / "t.csv", "folder,image,patient_id,A", "x,1,1,1", "y,2,2,0", "z,3,3,1", "z,4,4,0")
    frame = source("csv", path, findings=["A"], layout="{folder}/{image}.png").frame
    assert frame["path"].tolist() == ["x/1.png", "y/2.png", "z/3.png", "z/4.png"]
    with pytest.raises(ManifestError, match=r"no column 'imag' \(did you mean 'image'\?\)"):
        source("csv", path, findings=["A"], layout="{imag}.png")


@pytest.mark.parametrize(
    ("layout", "why"),
    [
        ("{", "single '{' encountered in format string"),
        ("{imag", "expected '}' before end of string"),
        ("{image:>8}.png", "there is more than a name in braces"),
        ("{image!r}.png", "there is more than a name in braces"),
    ],
)
def test_read_csv_layout_that_cannot_be_read_names_the_columns(tmp_path, layout, why):
    path = write(tmp_path / "t.csv", "folder,image,patient_id,A", "x,1,1,1")
    words = (
        f"manifest.layout {layout!r} cannot be read ({why}); name columns in braces, those of {path} are folder, image,"
    )
    with pytest.raises(ManifestError, match=re.escape(words)):
        source("csv", path, findings=["A"], layout=layout)


@pytest.mark.parametrize("finding", ["line", "part", "name", "path", "uri", "patient_id", "images", "view", "age"])
def test_read_csv_finding_named_like_a_column_of_ours_is_refused(tmp_path, finding):
    path = write(tmp_path / "t.csv", f"image,patient,{finding},B", *(f"{n}.png,{n},{n % 2},1" for n in range(9)))
    settings = {"uri_column": "image", "patient_column": "patient", "findings": ["B", finding]}
    with pytest.raises(ManifestError, match=f"finding {finding} of .* is named like a column .*'{finding} present'"):
        manifest("csv", path, **settings)


@pytest.mark.parametrize("number", ["1e300", "1e999", "9" * 40, "9" * 400, "-1e300"])
def test_read_csv_number_no_label_has_is_named(tmp_path, number):
    path = write(tmp_path / "t.csv", "uri,patient_id,age,A", f"1.png,1,{number},{number}", "2.png,2,50,1")
    with pytest.raises(ManifestError, match=rf"A must be 1, 0 or blank, but holds '{number}' \(line 2\)"):
        manifest("csv", path, findings=["A"], age_column="age")
    assert np.isnan(source("csv", path, findings=["A"], age_column="age").frame["age"].iloc[0])
