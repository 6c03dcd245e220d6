import pandas as pd

from cxr_ray.evaluation.grouping import MAX_GROUPS, groups_of


def test_groups_of_ages_become_bands_and_sexes_letters():
    stated = pd.DataFrame(
        {
            "Patient Age": ["017Y", "18", "59.9", "080Y", "009M", "old", ""],
            "gender": ["f", "Male", "", "x", "F", "M", "M"],
        }
    )
    groups = groups_of(stated, pd.DataFrame(index=range(7)), skipped=())
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
    groups = groups_of(stated, header, skipped=("uri", None))
    assert groups.columns.tolist() == ["view", "modality"]
    assert set(groups["view"]) == {"PA"}
    assert groups["modality"].tolist()[:3] == ["CR", "", "DX"]


def test_groups_of_rows_keep_their_order_whatever_their_index():
    stated = pd.DataFrame({"site": ["x", "y", "z"]}, index=["c", "a", "b"])
    assert groups_of(stated, pd.DataFrame(index=range(3)), skipped=())["site"].tolist() == ["x", "y", "z"]
