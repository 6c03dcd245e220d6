from pathlib import Path

import numpy as np
import pytest

from cxr_ray.errors import ConfigError, ManifestError
from cxr_ray.evaluation.localisation.boxes import Boxes, parse_frame

REAL = Path(__file__).parents[3] / "shared" / "data" / "nih64"
HEAD = "Image Index,Finding Label,Bbox [x,y,w,h],Unnamed: 6,Unnamed: 7,Unnamed: 8\n"
FINDINGS = ("Mass", "Infiltration")


def boxes(tmp_path, *rows, frame="film", sizes=None):
    table = tmp_path / "boxes.csv"
    table.write_text(HEAD + "".join(f"{row},,,\n" for row in rows))
    return Boxes(str(table), frame=frame, sizes=sizes or {"x/a.png": (100, 80)}, findings=FINDINGS)


def test_boxes_in_film_pixels_are_marked_where_they_are(tmp_path):
    found = boxes(tmp_path, "a.png,Mass,10,20,30,5", "a.png,Infiltrate,0,0,80,100", "a.png,Mass,70,90,2,2")
    expected = np.zeros((100, 80), bool)
    expected[20:25, 10:40] = expected[90:92, 70:72] = True
    marked = found("x/a.png")
    np.testing.assert_array_equal(marked["Mass"], expected)
    assert marked["Infiltration"].all()
    assert found("x/b.png") == {}
    assert found.uris == {"x/a.png"}


def test_boxes_of_a_larger_frame_are_scaled_to_the_film(tmp_path):
    found = boxes(tmp_path, "a.png,Mass,100,200,300,50", frame=(1000, 800))
    expected = np.zeros((100, 80), bool)
    expected[20:25, 10:40] = True
    np.testing.assert_array_equal(found("x/a.png")["Mass"], expected)


def test_boxes_smaller_than_a_pixel_of_the_film_keep_one(tmp_path):
    found = boxes(tmp_path, "a.png,Mass,104,203,2,2", frame=(1000, 800))
    assert np.argwhere(found("x/a.png")["Mass"]).tolist() == [[20, 10]]


@pytest.mark.parametrize(
    ("row", "frame", "words"),
    [
        ("a.png,Mass,10,20,300,50", "film", "width 300, height 50 of x/a.png .* does not lie in 80 x 100 pixels; give"),
        ("a.png,Mass,-9,20,30,50", "film", "x -9.*does not lie in 80 x 100"),
        ("a.png,Mass,9,20,0,50", "film", "does not lie in"),
        ("a.png,Mass,10,20,30,50", (1024, 1024), "80 x 100 pixels has another aspect ratio than .* 1024 x 1024; say"),
        (
            "a.png,Mass,10,20,30,50",
            None,
            "a.png has 80 x 100 pixels, and NIH's boxes are drawn on images of 1024 x 1024;",
        ),
        ("b.png,Mass,10,20,30,50", None, "None of the 1 boxes of .*, such as b.png, is of a scored"),
        ("a.png,Hernia,10,20,30,50", None, "None of the 1 boxes"),
    ],
)
def test_boxes_that_cannot_be_of_the_film_are_one_sentence(row, frame, words, tmp_path):
    with pytest.raises(ManifestError, match=words):
        boxes(tmp_path, row, frame=frame)


def test_boxes_without_a_frame_are_of_nih_s_images_and_of_no_other(tmp_path):
    row = "a.png,Mass,700,650,100,101"  # its middle is at .732, .684 of 1024 x 1024 pixels
    found = boxes(tmp_path, row, frame=None, sizes={"x/a.png": (1024, 1024)})("x/a.png")["Mass"]
    assert np.argwhere(found).min(axis=0).tolist() == [650, 700]
    with pytest.raises(ManifestError, match=r"--boxes-frame WIDTHxHEIGHT .* or --boxes-frame film for the films"):
        boxes(tmp_path, row, frame=None, sizes={"x/a.png": (2048, 2048)})
    large = boxes(tmp_path, row, frame=(1024, 1024), sizes={"x/a.png": (2048, 2048)})("x/a.png")["Mass"]
    np.testing.assert_allclose((np.argwhere(large).mean(axis=0) + 0.5) / 2048, [700.5 / 1024, 750 / 1024])
    # Films without a box may have any size.
    boxes(tmp_path, row, frame=None, sizes={"x/a.png": (1024, 1024), "x/b.png": (90, 70)})


def test_boxes_name_of_two_films_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="Several films have the name"):
        boxes(tmp_path, "a.png,Mass,1,2,3,4", sizes={"x/a.png": (100, 80), "y/a.png": (100, 80)})


def test_parse_frame_is_width_by_height():
    assert parse_frame("1024x768") == (768, 1024)
    assert parse_frame(None) is None
    assert parse_frame("film") == "film"
    for wrong in ("1024", "0x5", "1024*1024", "x"):
        with pytest.raises(ConfigError, match="takes WIDTHxHEIGHT"):
            parse_frame(wrong)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not here")
def test_boxes_of_nih_lie_on_the_small_copies_of_its_images():
    sizes = {str(path): (64, 64) for path in REAL.rglob("*.png")}
    table = str(REAL / "bbox_1024px.csv")
    found = Boxes(table, frame=(1024, 1024), sizes=sizes, findings=("Atelectasis", "Infiltration", "Nodule", "Mass"))
    (first,) = [uri for uri in found.uris if uri.endswith("00000181_061.png")]
    marked = np.argwhere(found(first)["Atelectasis"])
    # x 209.9, y 568.7, width 213.7, height 254.9 of 1024 are columns 13.1 to 26.5 and rows 35.5 to 51.5 of 64.
    np.testing.assert_allclose(marked.min(axis=0), [35.5, 13.1], atol=1.0)
    np.testing.assert_allclose(marked.max(axis=0) + 1, [51.5, 26.5], atol=1.0)
    assert len(marked) == pytest.approx(213.7 * 254.9 / 256, abs=1.0)
    with pytest.raises(ManifestError, match="give the size of the images it was drawn on as --boxes-frame"):
        Boxes(table, frame="film", sizes=sizes, findings=("Atelectasis",))
