import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_ray import storage
from cxr_ray.errors import ManifestError
from cxr_ray.evaluation.evaluate import evaluate
from cxr_ray.evaluation.localisation.marks import Marks, located_in
from cxr_ray.evaluation.localisation.masks import ColumnMasks, FolderMasks, find_lungs
from cxr_ray.images.phantom import FINDINGS as PHANTOM_FINDINGS
from tests.evaluation.invented import CONTRACT, HEIGHT, WIDTH, faulted_row, scored_row, write_scores

POSITIVE = ((0.9, 0.1, 0.1), (3, 0, 0), (0.1, 0.1, 0.1))


def picture(path, *, height=9, width=7, rows=slice(3, 4), columns=slice(4, 5), value=1):
    mask = np.zeros((height, width), np.uint8)
    mask[rows, columns] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return mask > 0


def test_folder_masks_are_found_by_finding_and_name(tmp_path):
    mask = picture(tmp_path / "Pleural_Effusion" / "a.png")
    picture(tmp_path / "Mass" / "a.png", value=0)
    sizes = {"s3://b/x/a.dcm": (9, 7), "s3://b/x/b.dcm": (5, 5)}
    masks = FolderMasks(tmp_path, sizes=sizes, findings=("Mass", "Pleural Effusion"))
    assert set(masks.uris) == {"s3://b/x/a.dcm"}
    assert list(masks("s3://b/x/a.dcm")) == ["Pleural Effusion"]
    np.testing.assert_array_equal(masks("s3://b/x/a.dcm")["Pleural Effusion"], mask)
    assert masks("s3://b/x/b.dcm") == {}


def test_masks_that_are_not_there_or_no_picture_are_one_sentence(tmp_path):
    with pytest.raises(ManifestError, match=r"holds no mask FINDING/NAME.png .* such as Mass/a.png"):
        FolderMasks(tmp_path, sizes={"x/a.dcm": (9, 7)}, findings=("Mass",))
    (tmp_path / "labels.csv").write_text("uri,masks\na.png,a_mask.png\nb.png,\nc.png,c_mask.png\nd.png,d_mask.png\n")
    (tmp_path / "a_mask.png").write_bytes(b"no picture")
    Image.new("RGB", (7, 9)).save(tmp_path / "d_mask.png")
    sizes = {str(tmp_path / name): (9, 7) for name in ("a.png", "b.png", "c.png", "d.png")}
    masks = ColumnMasks(str(tmp_path / "labels.csv"), sizes=sizes)
    assert sorted(masks.uris) == [str(tmp_path / name) for name in ("a.png", "c.png", "d.png")]
    for name in "ad":
        with pytest.raises(ManifestError, match=rf"{name}_mask\.png cannot be read as a picture"):
            masks(str(tmp_path / f"{name}.png"))
    with pytest.raises(ManifestError, match=r"c_mask\.png cannot be read \(No such file.*; write this mask again"):
        masks(str(tmp_path / "c.png"))
    (tmp_path / "without.csv").write_text("uri,Mass\na.png,1\n")
    with pytest.raises(ManifestError, match="no column 'masks'"):
        ColumnMasks(str(tmp_path / "without.csv"), sizes=sizes)


def test_masks_of_another_size_than_the_film_are_refused_whoever_reads_them(tmp_path):
    for name in ("Mass/a.png", "a.png"):
        picture(tmp_path / name, height=18, width=14)
    (tmp_path / "labels.csv").write_text("uri,masks,lungs\na.dcm,a.png,a.png\n")
    uri, manifest = str(tmp_path / "a.dcm"), str(tmp_path / "labels.csv")
    sizes = {uri: (9, 7)}
    places = {"sizes": sizes, "uri_column": "uri", "image_root": None}
    readers = (
        FolderMasks(tmp_path, sizes=sizes, findings=("Mass",)),
        ColumnMasks(manifest, sizes=sizes),
        find_lungs(manifest, None, **places),
        find_lungs(manifest, tmp_path, **places),
    )
    for masks in readers:
        with pytest.raises(ManifestError, match=r"has 14 x 18 pixels, its film .*a\.dcm 7 x 9; draw masks on the orig"):
            masks(uri)


def test_masks_named_like_two_films_are_refused(tmp_path):
    picture(tmp_path / "Mass" / "a.png")
    picture(tmp_path / "a.png")
    sizes = {"one/a.dcm": (9, 7), "two/a.dcm": (9, 7), "two/b.dcm": (9, 7)}
    with pytest.raises(ManifestError, match=r"Several films have the name of a mask in .*Mass: a;"):
        FolderMasks(tmp_path, sizes=sizes, findings=("Mass",))
    with pytest.raises(ManifestError, match="Several films have the name of a mask"):
        find_lungs("unread.csv", tmp_path, sizes=sizes, uri_column="uri", image_root=None)


def test_located_in_mask_of_twice_the_film_is_refused_and_the_right_one_is_hit(tmp_path):
    # The peak of the invented rows is at row 67.5, column 22.5 of a film of 90 x 60.
    write_scores(tmp_path, "a.parquet", [scored_row("/a.dcm", "1", POSITIVE), faulted_row("/b.dcm", "corrupt")])
    truth = pd.DataFrame({"Mass": [1.0, 1.0]}, index=["/a.dcm", "/b.dcm"])
    marks, lesion = Marks(masks=tmp_path / "masks"), {"rows": slice(60, 75), "columns": slice(15, 30)}
    picture(tmp_path / "masks" / "Mass" / "a.png", height=HEIGHT, width=WIDTH, **lesion)
    assert located_in(str(tmp_path), "unread.csv", truth, CONTRACT, marks).loc["/a.dcm", "Mass"] == 1.0
    twice = {"rows": slice(120, 150), "columns": slice(30, 60)}
    picture(tmp_path / "masks" / "Mass" / "a.png", height=2 * HEIGHT, width=2 * WIDTH, **twice)
    with pytest.raises(ManifestError, match=r"has 120 x 180 pixels, its film /a\.dcm 60 x 90"):
        located_in(str(tmp_path), "unread.csv", truth, CONTRACT, marks)


def test_located_in_boxes_of_a_film_that_has_no_score_are_not_looked_at(tmp_path):
    rows = [scored_row("/a.dcm", "1", POSITIVE, rows=1024, columns=1024), faulted_row("/b.dcm", "corrupt")]
    write_scores(tmp_path, "a.parquet", rows)
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("Image Index,Finding Label,x,y,w,h\na.dcm,Mass,20,60,9,9\nb.dcm,Mass,20,60,9,9\n")
    truth = pd.DataFrame({"Mass": [1.0, 1.0]}, index=["/a.dcm", "/b.dcm"])
    found = located_in(str(tmp_path), "unread.csv", truth, CONTRACT, Marks(boxes=str(boxes)))
    assert found["Mass"].tolist() == [1.0]


def test_evaluate_column_of_masks_without_any_says_nothing_of_places(tmp_path):
    write_scores(tmp_path, "a.parquet", [scored_row("/a.dcm", "1", POSITIVE)])
    (tmp_path / "labels.csv").write_text("uri,Mass,masks\n/a.dcm,1,\n")
    assert evaluate(str(tmp_path), str(tmp_path / "labels.csv"), num_draws=0).truth.loc["/a.dcm", "Mass"] == 1


def test_column_masks_and_lungs_beside_a_manifest_in_object_storage(tmp_path, s3):
    lesion = picture(tmp_path / "a.png", value=1 << PHANTOM_FINDINGS.index("Mass"))
    storage.put(f"{s3}/masks/a.png", (tmp_path / "a.png").read_bytes())
    storage.put(f"{s3}/labels.csv", b"uri,masks,lungs\nfilms/a.dcm,masks/a.png,masks/a.png\n")
    sizes = {f"{s3}/films/a.dcm": (9, 7)}
    masks = ColumnMasks(f"{s3}/labels.csv", sizes=sizes)(f"{s3}/films/a.dcm")
    assert list(masks) == ["Mass"]
    np.testing.assert_array_equal(masks["Mass"], lesion)
    lungs = find_lungs(f"{s3}/labels.csv", None, sizes=sizes, uri_column="uri", image_root=None)
    np.testing.assert_array_equal(lungs(f"{s3}/films/a.dcm"), lesion)


def test_find_lungs_none_marked_is_none(tmp_path):
    picture(tmp_path / "a.png", value=0)
    (tmp_path / "labels.csv").write_text("uri,Mass,lungs\na.dcm,1,a.png\nb.dcm,1,\n")
    sizes = {str(tmp_path / name): (9, 7) for name in ("a.dcm", "b.dcm")}
    places = {"sizes": sizes, "uri_column": "uri", "image_root": None}
    lungs = find_lungs(str(tmp_path / "labels.csv"), None, **places)
    assert [lungs(uri) for uri in sizes] == [None, None]
    (tmp_path / "labels.csv").write_text("uri,Mass\na.dcm,1\n")
    assert find_lungs(str(tmp_path / "labels.csv"), None, **places) is None
    with pytest.raises(ManifestError, match=r"holds no lung mask NAME\.png .* such as a\.png; check"):
        find_lungs(str(tmp_path / "labels.csv"), tmp_path / "elsewhere", **places)
