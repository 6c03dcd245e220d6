import numpy as np
import pandas as pd
import pytest

from cxr_ray.evaluation.grouping import MAX_GROUPS, groups_of, in_order, quartiles


def test_groups_of_ages_become_bands_and_sexes_letters():
    stated = pd.DataFrame(
        {
            "Patient Age": ["017Y", "18", "59.9", "080Y", "009M", "old", ""],
            "gender": ["f", "Male", "", "x", "F", "M", "M"],
        }
    )
    groups, _ = groups_of(stated, pd.DataFrame(index=range(7)), skipped=())
    bands = ["under 18", "18 to 39", "40 to 59", "80 and over", "under 18", "", ""]
    assert groups["Patient Age"].tolist() == bands
    assert groups["gender"].tolist() == ["F", "M", "", "", "F", "M", "M"]


def test_groups_of_columns_that_cannot_group_and_skipped_ones_stay_out():
    number = MAX_GROUPS + 1
    stated = pd.DataFrame(
        {
            "uri": ["a"] * number,
            "name": [f"n{n}" for n in range(number)],
            "blank": [""] * number,
            "view": ["PA"] * number,
        }
    )
    header = pd.DataFrame({"view": ["AP"] * number, "modality": ["CR", None] + ["DX"] * (number - 2)})
    groups, reasons = groups_of(stated, header, skipped=("uri", None))
    assert groups.columns.tolist() == ["view", "modality"]
    assert set(groups["view"]) == {"PA"}
    assert groups["modality"].tolist()[:3] == ["CR", "", "DX"]
    assert reasons["name"] == "it holds 21 different values that are not all numbers, and at most 20 can be compared"
    assert reasons["blank"] == "none of its cells holds a value that can be read"
    assert set(reasons) == {"uri", "name", "blank"}


def test_groups_of_rows_keep_their_order_whatever_their_index():
    stated = pd.DataFrame({"site": ["x", "y", "z"]}, index=["c", "a", "b"])
    assert groups_of(stated, pd.DataFrame(index=range(3)), skipped=())[0]["site"].tolist() == ["x", "y", "z"]


def test_groups_of_many_numbers_become_quartiles_and_few_stay():
    doses = [str(number) for number in range(1, 41)]
    stated = pd.DataFrame({"dose": [*doses, ""], "reader": ["1", "2", "10", "3.0"] * 10 + [""]}, dtype=str)
    groups, _ = groups_of(stated, pd.DataFrame(index=range(41)), skipped=())
    counts = groups["dose"].value_counts()
    assert sorted(counts.index, key=in_order) == ["1 to 10", "11 to 20", "21 to 30", "31 to 40", ""]
    assert counts.drop("").tolist() == [10] * 4
    assert groups["dose"].tolist()[9:11] == ["1 to 10", "11 to 20"]
    assert set(groups["reader"]) == {"1", "2", "10", "3.0", ""}


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([0.0] * 60 + [*range(1, 41)], ["0", "1 to 15", "16 to 40"]),
        ([0.125, 0.25, 1.5, 2.0], ["0.125", "0.25", "1.5", "2"]),
        ([-5.0, -1.0, 3.0, 12345678.0], ["-5", "-1", "3", "12345678"]),
        ([1.00000001, 1.00000002, 1.00000003, 1.00000004], ["1.00000001", "1.00000002", "1.00000003", "1.00000004"]),
    ],
)
def test_quartiles_equal_numbers_stay_together_and_names_differ(values, names):
    bands = quartiles(pd.Series([*values, np.nan], dtype=float))
    assert list(dict.fromkeys(bands)) == [*names, ""]


def test_in_order_is_by_the_numbers_of_bands():
    ages = ["80 and over", "18 to 39", "under 18"]
    assert sorted(ages, key=in_order) == ["under 18", "18 to 39", "80 and over"]
    assert sorted(["PA", "100 to 200", "12 to 35", "-3 to 9"], key=in_order) == [
        "-3 to 9",
        "12 to 35",
        "100 to 200",
        "PA",
    ]
