"""NIH ChestX-ray14: Data_Entry_2017(_v2020).csv, the official lists, and 984 boxes.

Source: Wang et al. 2017, ChestX-ray8, and the README beside the images. Boxes are in pixels of the published PNG files
of 1024 x 1024, not of the films they were made from.
"""

import pandas as pd

from cxr_ray.config import ManifestConfig
from cxr_ray.errors import ManifestError
from cxr_ray.labels.tables import (
    BOX,
    Labelled,
    ages,
    image_paths,
    label_lists,
    lines_of,
    listed,
    near,
    numbers_of,
    read_table,
    read_text,
    require,
    sexes,
    text,
)

FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia"),
    *("Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax"),
)
LAYOUT = "{Image Index}"

_NOTHING = "No Finding"
_BOX_NAMES = {"Infiltrate": "Infiltration"}  # the list of boxes spells this one differently


def read(config: ManifestConfig) -> Labelled:
    """ChestX-ray14 in the common form; with both lists, their training and test part.

    Raises:
        ManifestError: Columns are missing, a label is none of the 14, or the lists and the table differ.
    """
    table = read_table(config.path)
    require(table, ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position"), config.path)
    sex = "Patient Sex" if "Patient Sex" in table else "Patient Gender"  # the releases of 2020 and 2017
    require(table, (sex,), config.path)
    names = text(table["Image Index"])
    frame = pd.DataFrame(
        {
            "name": names,
            "line": lines_of(table),
            "path": image_paths(table, config.layout or LAYOUT, config.path),
            "patient_id": text(table["Patient ID"]),
            "part": _official_parts(names, config),
            "sex": sexes(table[sex]),
            "age": ages(table["Patient Age"]),
            "view": text(table["View Position"]),
        }
    )
    findings = config.findings or FINDINGS
    labels = label_lists(_lists(table["Finding Labels"], config.path), (*FINDINGS, _NOTHING))
    strangers = [f"{finding!r}{near(finding, FINDINGS)}" for finding in findings if finding not in FINDINGS]
    if strangers:
        raise ManifestError(f"ChestX-ray14 has no finding {', '.join(strangers)}; it has {', '.join(FINDINGS)}.")
    boxes = read_boxes(config.boxes_path) if config.boxes_path else None
    return Labelled(pd.concat([frame, labels[list(findings)]], axis=1), findings, boxes)


def read_boxes(path: str) -> pd.DataFrame:
    """BBox_List_2017.csv, whose header `Bbox [x,y,w,h]` is four columns: they are taken by their place.

    Raises ManifestError when one of them, a name or a number is missing.
    """
    table = read_table(path)
    require(table, ("Image Index", "Finding Label"), path)
    label = list(table.columns).index("Finding Label")
    boxes = table.iloc[:, [list(table.columns).index("Image Index"), *range(label, min(label + 5, table.shape[1]))]]
    if boxes.shape[1] < 6:
        raise ManifestError(
            f"The table {path} has {boxes.shape[1] - 2} columns after Finding Label; it needs four, x, y, w and h."
        )
    boxes = boxes.set_axis(["name", *BOX], axis=1)
    numbers: pd.DataFrame = boxes[list(BOX[1:])].apply(numbers_of)
    if numbers.isna().any(axis=None):
        raise ManifestError(f"The table {path} must hold four numbers x, y, w, h after Finding Label in every row.")
    names, findings = text(boxes["name"]), text(boxes["finding"]).replace(_BOX_NAMES)
    return pd.concat([names, findings, numbers], axis=1)


def _lists(column: "pd.Series[str]", path: str) -> "pd.Series[list[str]]":
    """The names between the `|` of each row; raises ManifestError for a name that is none of the 14."""
    lists = text(column).str.split("|", regex=False).map(lambda row: [name.strip() for name in row if name.strip()])
    known = (*FINDINGS, _NOTHING)
    strangers = sorted({name for row in lists for name in row} - set(known))
    if strangers:
        shown = ", ".join(f"{name!r}{near(name, known)}" for name in strangers[:5])
        raise ManifestError(f"The column Finding Labels of {path} holds {shown}; it must name the 14 or {_NOTHING}.")
    return lists


def _official_parts(names: "pd.Series[str]", config: ManifestConfig) -> "pd.Series[str] | None":
    """Training or test part of each image by the two lists; None without them.

    Raises:
        ManifestError: A list names an unknown image, both name one, or an image of the table is in neither.
    """
    if config.train_list is None or config.test_list is None:
        return None
    train, test = (set(read_text(path).split()) for path in (config.train_list, config.test_list))
    for path, members in ((config.train_list, train), (config.test_list, test)):
        unknown = sorted(members - set(names))
        if unknown:
            raise ManifestError(
                f"The list {path} names {len(unknown):,} images that {config.path} lacks, such as {listed(unknown)};"
                " use both of one release."
            )
    both, neither = sorted(train & test), sorted(set(names) - train - test)
    if both or neither:
        what = f"both name {listed(both)}" if both else f"neither name {listed(neither)}"
        raise ManifestError(f"The lists {config.train_list} and {config.test_list} {what}; use both of one release.")
    return names.isin(train).map({True: "train", False: "test"})
