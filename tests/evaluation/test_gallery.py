import base64
import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from cxr_ray.evaluation.cohort import read_cohort
from cxr_ray.evaluation.report.gallery import MAX_READINGS, Panel, panels, select
from tests.evaluation.invented import (
    CONTRACT,
    FILMS,
    FINDINGS,
    GRID,
    HEIGHT,
    STRANGE,
    WIDTH,
    Scored,
    reported,
    scored_row,
    write_scores,
)

NAN = float("nan")


def gallery(scored: Scored, *, truth: pd.DataFrame | None = None) -> dict[str, Panel]:
    """Every chosen panel by the name of its film, in order."""
    cohort = read_cohort(scored.output)
    chosen = select(cohort.probabilities, CONTRACT.thresholds, max_images=60)
    return {panel.uri.rsplit("/", 1)[-1]: panel for panel in panels(scored.output, cohort, chosen, truth=truth)}


def test_select_findings_take_turns_with_their_strongest_image() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.7], [0.95, 0.6], [0.7, 0.2], [0.1, 0.1], [NAN, NAN]])
    assert select(probabilities, (0.5, 0.5), max_images=60) == [(2, 0), (1, 1), (0, 0), (3, 0)]
    assert select(probabilities, (0.5, 0.5), max_images=3) == [(2, 0), (1, 1), (0, 0)]
    assert select(probabilities, (0.5, 0.5), max_images=0) == []


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(0, 12), st.integers(1, 4)), elements=st.sampled_from([NAN, 0.2, 0.6, 0.9])
    ),
    st.integers(0, 12),
)
def test_select_any_scores_shows_positives_once_up_to_the_cap(probabilities: np.ndarray, max_images: int) -> None:
    chosen = select(probabilities, (0.5,) * probabilities.shape[1], max_images=max_images)
    rows = [row for row, _ in chosen]
    assert len(set(rows)) == len(rows) == min(max_images, int((probabilities >= 0.5).any(axis=1).sum()))
    assert all(probabilities[row, f] >= 0.5 for row, f in chosen)


def test_panels_one_for_each_positive_image(scored: Scored) -> None:
    shown = gallery(scored)
    assert list(shown) == ["gone.png", "b.png", STRANGE, "a.png", "c.png"]
    readings = shown["b.png"].readings
    assert [(r.finding, r.votes) for r in readings] == [("Pleural_effusion", 3), ("Mass", 2)]
    assert (readings[0].probability, readings[0].spread) == (pytest.approx(0.8), pytest.approx(0.05))
    assert (readings[0].peak, readings[0].map_agreement) == ((67.5, 22.5), 0.5)
    assert shown["b.png"].readings[shown["b.png"].shown].finding == "Pleural_effusion"
    assert shown[STRANGE].readings[shown[STRANGE].shown].finding == "Nodule / other (small)"


def test_panels_film_and_heat_show_the_same_place(scored: Scored) -> None:
    panel = gallery(scored)["a.png"]
    assert (panel.film.height, panel.film.width, panel.film.notice) == (HEIGHT, WIDTH, None)
    heat = panel.readings[0].heat
    assert panel.film.picture is not None
    assert heat is not None
    picture, layer = (
        Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in (panel.film.picture, heat)
    )
    assert picture.size == layer.size == (WIDTH, HEIGHT)
    opacity = np.asarray(layer.convert("RGBA"))[..., 3]
    row, column = np.argwhere(opacity == opacity.max()).mean(axis=0) + 0.5
    assert (row, column) == pytest.approx(panel.readings[0].peak, abs=0.5)


def test_panels_vanished_film_leaves_its_numbers_and_a_sentence(scored: Scored) -> None:
    panel = gallery(scored)["gone.png"]
    assert panel.film.picture is None
    assert "gone.png cannot be read" in str(panel.film.notice)
    assert (panel.readings[0].votes, panel.readings[0].heat) == (3, None)


def test_panels_broken_film_leaves_its_numbers_and_a_sentence(tmp_path: Path) -> None:
    film = tmp_path / "broken.png"
    film.write_bytes(b"no image at all")
    write_scores(tmp_path / "out", "a.parquet", [scored_row(str(film), "1", FILMS["a.png"])])
    panel = gallery(Scored(str(tmp_path / "out"), tmp_path))["broken.png"]
    assert panel.film.picture is None
    assert "none of DICOM, PNG, JPEG and TIFF" in str(panel.film.notice)


def test_panels_changed_film_is_shown_with_a_warning(scored: Scored, tmp_path: Path) -> None:
    film = tmp_path / "a.png"
    shutil.copy(scored.films / "a.png", film)
    write_scores(tmp_path / "out", "a.parquet", [scored_row(str(film), "another version", FILMS["a.png"])])
    panel = gallery(Scored(str(tmp_path / "out"), tmp_path))["a.png"]
    assert panel.film.picture is not None
    assert panel.film.notice == "The file has changed since it was scored."


def test_panels_without_heat_maps_list_the_positives_all_the_same(scored: Scored, tmp_path: Path) -> None:
    row = scored_row(scored.uri("b.png"), "1", FILMS["b.png"], findings=[])
    write_scores(tmp_path, "a.parquet", [row])
    panel = gallery(Scored(str(tmp_path), scored.films))["b.png"]
    assert [reading.finding for reading in panel.readings] == ["Pleural_effusion", "Mass"]
    assert panel.readings[0].heat is None


def test_panels_negatives_with_a_map_are_marked_as_such(scored: Scored, tmp_path: Path) -> None:
    probabilities, votes, _ = FILMS["a.png"]
    every = [reported(finding, probabilities[f], votes[f]) for f, finding in enumerate(FINDINGS)]
    write_scores(tmp_path, "a.parquet", [scored_row(scored.uri("a.png"), "1", FILMS["a.png"], findings=every)])
    panel = gallery(Scored(str(tmp_path), scored.films))["a.png"]
    assert [(reading.finding, reading.present) for reading in panel.readings] == [
        ("Mass", True),
        ("Nodule / other (small)", False),
        ("Pleural_effusion", False),
    ]
    assert len(FINDINGS) <= MAX_READINGS
    assert panel.num_more == 0


def test_panels_truth_says_what_each_decision_was(scored: Scored) -> None:
    truth = pd.DataFrame(
        {"Mass": [1.0, 0.0, NAN], "Pleural_effusion": [0.0, 1.0, NAN], "Nodule / other (small)": [1.0, NAN, 1.0]},
        index=[scored.uri(name) for name in ("a.png", "b.png", STRANGE)],
    )
    shown = gallery(scored, truth=truth)
    assert [(r.finding, r.status) for r in shown["a.png"].readings] == [
        ("Mass", "true positive"),
        ("Nodule / other (small)", "false negative"),
    ]
    assert [r.status for r in shown["b.png"].readings] == ["true positive", "false positive"]
    assert [r.status for r in shown[STRANGE].readings] == ["true positive", "positive"]
    assert shown["c.png"].readings[0].truth is None


def test_select_with_labels_shows_misses_and_negatives_in_turn() -> None:
    probabilities = np.array([[0.9, 0.1], [0.3, 0.2], [0.1, 0.1], [0.4, 0.2], [0.2, 0.45], [NAN, NAN], [0.1, 0.2]])
    labels = np.array([[1, 0], [1, 0], [1, 0], [0, 0], [0, 0], [1, 1], [NAN, NAN]], float)
    chosen = select(probabilities, (0.5, 0.5), max_images=60, labels=labels)
    # The positive, the lower of both misses, the negative closest to each threshold, then the other miss. A fault
    # and an image without labels are not shown.
    assert chosen == [(0, 0), (2, 0), (3, 0), (4, 1), (1, 0)]


def test_panels_member_maps_lie_side_by_side_before_the_spread(scored: Scored, tmp_path: Path) -> None:
    maps = np.zeros((3, GRID, GRID), np.uint8)
    maps[0, 1, 1] = maps[1, 4, 4] = 255
    row = scored_row(scored.uri("a.png"), "1", FILMS["a.png"], member_heatmaps=[maps.tobytes()])
    row["findings"][0]["heatmap_spread"] = bytes([127] * GRID * GRID)
    write_scores(tmp_path, "a.parquet", [row])
    reading = gallery(Scored(str(tmp_path), scored.films))["a.png"].readings[0]
    assert reading.frames == ("one", "two", "three", "spread")
    assert reading.strip is not None
    picture = Image.open(io.BytesIO(base64.b64decode(reading.strip.partition(",")[2])))
    frames = np.split(np.asarray(picture.convert("RGBA"), float)[..., 3], 4, axis=1)
    height, width = frames[0].shape
    middles = [np.argwhere(frame == frame.max()).mean(axis=0) + 0.5 for frame in frames[:2]]
    # Cells (1, 1) and (4, 4) of 6 x 6 on a film of 90 x 60 that was padded to a square.
    np.testing.assert_allclose(middles[0], (height * 1.5 / 6, width * (1.5 * 90 / 6 - 15) / 60), atol=0.75)
    np.testing.assert_allclose(middles[1], (height * 4.5 / 6, width * (4.5 * 90 / 6 - 15) / 60), atol=0.75)
    assert frames[2].max() == 0
    assert frames[3].min() == 255


def test_panels_scores_without_member_maps_show_the_spread_alone(scored: Scored) -> None:
    assert gallery(scored)["a.png"].readings[0].frames == ("spread",)
