"""The training table: what is wrong is said at once, and no patient is torn apart."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ray import storage
from cxr_ray.config import ManifestConfig
from cxr_ray.errors import ConfigError, ManifestError
from cxr_ray.labels.findings import check_findings, column_suffix
from cxr_ray.labels.manifest import read_manifest, read_truth

FINDINGS = ("Mass", "Nodule")


def write_table(folder: Path, rows: list[dict[str, object]]) -> str:
    """A CSV beside empty image files that its rows name."""
    for row in rows:
        (folder / str(row["uri"])).touch()
    path = folder / "labels.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return str(path)


def rows(num: int = 12) -> list[dict[str, object]]:
    return [
        {
            "uri": f"{i}.png",
            "patient_id": f"p{i // 2}",
            "part": "train" if i < 8 else "validation",
            "Mass": i % 2,
            "Nodule": "",
        }
        for i in range(num)
    ]


def read(path: str, **settings: object):
    config = {"path": path, "findings": FINDINGS, "part_column": "part", "one_class": "allow", **settings}
    return read_manifest(ManifestConfig.model_validate(config), seed=0)


def test_read_manifest_good_table_has_labels_parts_and_counts(tmp_path):
    manifest = read(write_table(tmp_path, rows()))
    assert manifest.frame["uri"].iloc[0] == str(tmp_path / "0.png")
    assert np.isnan(manifest.frame["Nodule"]).all()
    assert manifest.counts().loc["train"].to_dict() == {"images": 8, "Mass": 4, "Nodule": 0}


def test_read_manifest_digest_follows_content_not_the_file_name(tmp_path):
    first = read(write_table(tmp_path, rows()))
    second = read(str((tmp_path / "labels.csv").rename(tmp_path / "other.csv")))
    assert first.digest == second.digest
    changed = [{**row, "Mass": 0} for row in rows()]
    assert read(write_table(tmp_path, changed)).digest != first.digest


def test_read_manifest_parquet_equals_csv(tmp_path):
    path = write_table(tmp_path, rows())
    frame = pd.DataFrame(rows())
    frame["Nodule"] = np.nan
    frame.to_parquet(tmp_path / "labels.parquet")
    pd.testing.assert_frame_equal(read(path).frame, read(str(tmp_path / "labels.parquet")).frame)


def test_read_manifest_missing_columns_are_named_with_near_ones(tmp_path):
    path = write_table(tmp_path, rows())
    with pytest.raises(ManifestError, match=r"no column 'patient' \(did you mean 'patient_id'\?\), 'Nodul' \(did"):
        read(path, findings=("Mass", "Nodul"), patient_column="patient")


def test_read_manifest_all_bad_rows_are_reported_at_once(tmp_path):
    table = rows()
    table[1]["Mass"] = "yes"
    table[2]["Mass"] = 2
    table[3]["patient_id"] = " "
    table[4]["part"] = "holdout"
    blanks = [{**table[5], "uri": blank} for blank in ("", " ")]
    path = write_table(tmp_path, [*table, table[5], *blanks])
    (tmp_path / "7.png").unlink()
    with pytest.raises(ManifestError) as caught:
        read(path)
    for words in (
        "column Mass must be 1, 0 or blank, but holds 'yes' (line 3), '2' (line 4);",
        "the patient is blank for 3.png (line 5);",
        "the image is blank in lines 15, 16; name it, or remove the row;",
        "these images are listed before: 5.png (line 14);",
        f"these images do not exist: {tmp_path}/7.png (line 9);",
        "the part must be train, validation or test, not 'holdout' (line 6);",
    ):
        assert words in str(caught.value)


def test_read_manifest_patient_in_two_parts_is_refused(tmp_path):
    table = rows()
    table[1]["part"] = "validation"
    with pytest.raises(ManifestError, match="same patient is in two parts: p0;"):
        read(write_table(tmp_path, table))


def test_read_manifest_many_bad_rows_are_counted(tmp_path):
    table = [{**row, "Mass": "?"} for row in rows()]
    with pytest.raises(ManifestError, match=r"'\?' \(line 6\) and 7 more;"):
        read(write_table(tmp_path, table))


def test_read_manifest_without_rows_or_without_a_part_is_refused(tmp_path):
    (tmp_path / "empty.csv").write_text("uri,patient_id,part,Mass,Nodule\n")
    with pytest.raises(ManifestError, match="has no rows"):
        read(str(tmp_path / "empty.csv"))
    table = [{**row, "part": "train"} for row in rows()]
    with pytest.raises(ManifestError, match="no image in the part validation"):
        read(write_table(tmp_path, table))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.csv",
            "uri,Mass,Geschlecht\na.png,1,m\xe4nnlich\n".encode("latin-1"),
            "is not in UTF-8; save it as CSV in UTF",
        ),
        ("a.csv", "uri,M\xe4sse\na.png,1\n".encode("latin-1"), "is not in UTF-8; save it as CSV in UTF-8"),
        ("a.csv", b"", "is empty; it needs a header and a row per image."),
        ("a.csv", b"\n\n", "is empty; it needs a header and a row per image."),
        ("a.parquet", b"", "is empty; it needs a header and a row per image."),
        ("a.parquet", b"uri,Mass", "is neither CSV nor Parquet (ArrowInvalid); save it as one of them."),
        ("a.csv", b"uri,Mass\n", "has no rows; it needs one per image."),
        ("a.csv", b"uri,Mass,Mass\na.png,1,0\n", "has several columns named Mass; keep or rename one of them."),
        ("a.csv", b"\xef\xbb\xbfuri,uri,Mass\na.png,b.png,1\n", "has several columns named uri; keep or rename"),
        ("a.csv", b"uri,Mass\na.png,1,2\n", "have more fields than its header; name every column."),
        (
            "a.csv",
            b"uri,mass\na.png,1\n",
            "has a column for none of the findings Mass, Nodule; name the columns of labels as the ensemble does, its"
            " columns are uri, mass.",
        ),
    ],
)
def test_read_truth_tables_that_cannot_be_used_are_one_sentence(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError) as caught:
        read_truth(str(tmp_path / name), findings=FINDINGS)
    assert words in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_read_truth_header_of_another_kind_of_line_or_with_a_mark_is_read(tmp_path):
    path = tmp_path / "a.csv"
    for content in (b"\xef\xbb\xbfuri,Mass\r\na.png,1\r\n", b'\nuri,"Mass"\na.png,1\n', b"uri,Mass,,\na.png,1,,\n"):
        path.write_bytes(content)
        assert read_truth(str(path), findings=FINDINGS)["Mass"].tolist() == [1.0]
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress(b"uri,Mass\na.png,1\n"))
    assert read_truth(str(packed), findings=FINDINGS)["Mass"].tolist() == [1.0]
    packed.write_bytes(gzip.compress(b"uri,Mass,Mass\na.png,1,0\n"))
    with pytest.raises(ManifestError, match="several columns named Mass"):
        read_truth(str(packed), findings=FINDINGS)


def test_read_manifest_absent_file_is_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"absent\.csv cannot be read"):
        read(str(tmp_path / "absent.csv"))


def test_split_by_patient_parts_hold_their_share_of_each_finding(tmp_path):
    random = np.random.default_rng(0)
    labels = random.random((600, 2)) < (0.4, 0.05)
    table = [
        {"uri": f"{i}.png", "patient_id": f"p{i // 3}", "Mass": int(labels[i, 0]), "Nodule": int(labels[i, 1])}
        for i in range(600)
    ]
    manifest = read(write_table(tmp_path, table), part_column=None, shares=(0.6, 0.2, 0.2))
    frame = manifest.frame
    assert frame.groupby("patient_id")["part"].nunique().max() == 1
    union = (frame[["Mass", "Nodule"]] == 1).groupby(frame["patient_id"]).max()
    part = frame.groupby("patient_id")["part"].first()
    for finding in FINDINGS:
        shares = union.groupby(part)[finding].sum() / union[finding].sum()
        assert shares["train"] == pytest.approx(0.6, abs=0.06)
        assert shares["test"] == pytest.approx(0.2, abs=0.06)


def test_split_by_patient_same_seed_same_split(tmp_path):
    path = write_table(tmp_path, [{**row, "patient_id": f"p{i}"} for i, row in enumerate(rows(40))])
    settings = {"part_column": None, "shares": (0.5, 0.25, 0.25)}
    assert read(path, **settings).digest == read(path, **settings).digest


def test_read_truth_image_named_twice_is_refused(tmp_path):
    (tmp_path / "labels.csv").write_text("uri,Mass\na.png,1\nb.png,0\na.png,0\n")
    with pytest.raises(ManifestError, match=r"has 1 row too many, first for .*a\.png; keep one each"):
        read_truth(str(tmp_path / "labels.csv"), findings=("Mass",))


def test_read_truth_blank_is_nan_and_root_is_applied(tmp_path):
    write_table(tmp_path, rows(2))
    truth = read_truth(str(tmp_path / "labels.csv"), findings=("Mass", "Other"), image_root="s3://bucket/films")
    assert truth.index.tolist() == ["s3://bucket/films/0.png", "s3://bucket/films/1.png"]
    assert truth.columns.tolist() == ["Mass"]


def test_check_findings_names_that_share_a_column_are_refused():
    assert check_findings(["Pleural Effusion", "Mass"]) == ("Pleural Effusion", "Mass")
    assert column_suffix("Pleural Effusion") == "Pleural_Effusion"
    with pytest.raises(ConfigError, match="would share one column"):
        check_findings(["Pleural Effusion", "Pleural_Effusion"])
    with pytest.raises(ConfigError, match="no usable name"):
        check_findings(["<b>"])


def test_tables_on_s3_have_their_relative_images_beside_them(s3):
    table = "uri,patient_id,part,Mass,Nodule\n" + "".join(
        f"films/{row['uri']},{row['patient_id']},{row['part']},{row['Mass']},\n" for row in rows()
    )
    storage.put(f"{s3}/labels.csv", table.encode())
    assert read(f"{s3}/labels.csv").frame["uri"].iloc[0] == f"{s3}/films/0.png"
    assert read_truth(f"{s3}/labels.csv", findings=("Mass",)).index[0] == f"{s3}/films/0.png"
