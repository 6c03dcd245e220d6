from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from cxr_ray.evaluation.localisation.pointing import ALL_FINDINGS, located, pointing_game
from cxr_ray.scoring.table import FINDING
from tests.evaluation.invented import reported

FINDINGS = ("Mass", "Nodule")
TABLE = pa.schema([pa.field("uri", pa.string()), pa.field("findings", pa.list_(FINDING))])


def table(rows: dict[str, list[dict[str, Any]] | None]) -> pa.Table:
    """Score rows with the two columns that the game reads."""
    return pa.Table.from_pylist([{"uri": uri, "findings": found} for uri, found in rows.items()], schema=TABLE)


def labels(**rows: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows.values(), index=list(rows), columns=list(FINDINGS))


def mask(*places: tuple[int, int, int]) -> dict[str, NDArray[np.bool_]]:
    """Masks (5, 7) of both findings with these (finding, row, column) set."""
    lesions = np.zeros((2, 5, 7), bool)
    for place in places:
        lesions[place] = True
    return dict(zip(FINDINGS, lesions, strict=True))


def play(
    rows: dict[str, list[dict[str, Any]] | None], truth: pd.DataFrame, masks: dict[str, dict[str, NDArray[np.bool_]]]
) -> pd.DataFrame:
    return pointing_game(table(rows), truth, lambda uri: masks.get(uri, {}), findings=FINDINGS, thresholds=(0.5, 0.7))


def at(row: float | None, column: float | None, finding: str = "Mass", probability: float = 0.9) -> dict[str, Any]:
    return reported(finding, probability, 3, peak_row=row, peak_column=column)


def test_pointing_game_hand_made_case_gives_hand_counted_rates() -> None:
    rows = {
        "hit": [at(2.5, 6.5), at(0.5, 0.5, "Nodule")],
        "miss": [at(2.5, 5.9)],
        "nodule": [at(4.99, 3.0, "Nodule", 0.7)],
    }
    truth = labels(hit=(1, 1), miss=(1, 0), nodule=(0, 1))
    masks = {"hit": mask((0, 2, 6), (1, 3, 3)), "miss": mask((0, 2, 6)), "nodule": mask((1, 4, 3))}
    found = play(rows, truth, masks)
    assert found.index.tolist() == ["Mass", "Nodule", ALL_FINDINGS]
    assert found["num_true_positives"].tolist() == [2, 2, 4]
    assert found["num_hits"].tolist() == [1, 1, 2]
    assert found["rate"].tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("row", "column", "hits"),
    [
        (2.0, 6.0, 1),
        (2.999, 6.999, 1),
        (1.999, 6.5, 0),
        (3.0, 6.5, 0),
        (2.5, 7.0, 0),
        (-3.0, 6.5, 0),
        (2.5, -1.0, 0),
        (None, None, 0),
        (float("nan"), 6.5, 0),
    ],
)
def test_pointing_game_peak_belongs_to_the_pixel_it_lies_in(row: float, column: float, hits: int) -> None:
    found = play({"a": [at(row, column)]}, labels(a=(1, 0)), {"a": mask((0, 2, 6))})
    assert found.loc["Mass", ["num_true_positives", "num_hits"]].tolist() == [1, hits]


@pytest.mark.parametrize(
    ("reading", "truth", "masks"),
    [
        pytest.param(at(2.5, 6.5), (0, 1), {"a": mask((0, 2, 6))}, id="absent"),
        pytest.param(at(2.5, 6.5), (float("nan"), 1), {"a": mask((0, 2, 6))}, id="not stated"),
        pytest.param(at(2.5, 6.5, probability=0.49), (1, 1), {"a": mask((0, 2, 6))}, id="below threshold"),
        pytest.param(at(2.5, 6.5), (1, 1), {}, id="no mask"),
        pytest.param(at(2.5, 6.5), (1, 1), {"a": mask((1, 2, 6))}, id="empty mask"),
        pytest.param(at(2.5, 6.5) | {"heatmap": None}, (1, 1), {"a": mask((0, 2, 6))}, id="no heat map"),
    ],
)
def test_pointing_game_what_is_no_located_true_positive_does_not_count(
    reading: dict[str, Any], truth: tuple[float, float], masks: dict[str, dict[str, NDArray[np.bool_]]]
) -> None:
    found = play({"a": [reading]}, labels(a=truth), masks)
    assert found["num_true_positives"].tolist() == [0, 0, 0]
    assert found["rate"].isna().all()


def test_pointing_game_faulted_and_unlabelled_images_are_passed_over() -> None:
    rows = {"faulted": None, "unlabelled": [at(2.5, 6.5)], "known": [at(2.5, 6.5)]}
    masks = dict.fromkeys(rows, mask((0, 2, 6)))
    found = play(rows, labels(faulted=(1, 1), known=(1, 0)), masks)
    assert found.loc[ALL_FINDINGS].tolist() == [1, 1, 1.0]


def test_located_is_told_for_each_image_and_finding_below_the_threshold_too() -> None:
    rows = {
        "hit": [at(2.5, 6.5, probability=0.1), at(0.5, 0.5, "Nodule")],
        "faulted": None,
        "flat": [at(None, None)],
        "absent": [at(2.5, 6.5)],
    }
    truth = labels(hit=(1, 1), faulted=(1, 1), flat=(1, 0), absent=(0, 1))
    masks = dict.fromkeys(rows, mask((0, 2, 6), (1, 3, 3)))
    found = located(table(rows), truth, masks.__getitem__, findings=FINDINGS)
    np.testing.assert_array_equal(found, [[1, 0], [np.nan, np.nan], [0, np.nan], [np.nan, np.nan]])


def test_located_finding_that_the_labels_do_not_know_is_nan() -> None:
    truth = labels(a=(1, 1)).drop(columns="Nodule")
    found = located(table({"a": [at(2.5, 6.5)]}), truth, lambda uri: mask((0, 2, 6)), findings=FINDINGS)
    np.testing.assert_array_equal(found, [[1, np.nan]])
