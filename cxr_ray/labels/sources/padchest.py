"""PadChest: one CSV of 160,868 images, labels as a Python list in text, and a tree of terms.

Source: Bustos et al. 2020, PadChest, and the README and tree_term_CUI_counts_160K.csv of its repository.
"""

import ast
import re

import numpy as np
import pandas as pd

from cxr_ray.config import ManifestConfig
from cxr_ray.errors import ManifestError
from cxr_ray.labels.tables import (
    Labelled,
    describe,
    image_paths,
    label_lists,
    lines_of,
    near,
    numbers_of,
    read_table,
    read_text,
    require,
    sexes,
    text,
)

# The 35 specific labels of Liz et al. (FGCS 2023), spelt as PadChest does, without capitals.
SPECIFIC = (
    *("normal", "copd signs", "cardiomegaly", "aortic elongation", "unchanged", "scoliosis", "chronic changes"),
    *("costophrenic angle blunting", "air trapping", "pleural effusion", "pneumonia", "interstitial pattern"),
    *("infiltrates", "laminar atelectasis", "vertebral degenerative changes", "kyphosis", "apical pleural thickening"),
    *("vascular hilar enlargement", "fibrotic band", "nodule", "calcified granuloma", "callus rib fracture"),
    *("pacemaker", "aortic atheromatosis", "volume loss", "sternotomy", "bronchiectasis", "hiatal hernia"),
    *("pseudonodule", "hemidiaphragm elevation", "alveolar pattern", "increased density"),
    *("vertebral anterior compression", "suture material", "supra aortic elongation"),
)
LAYOUT = "{ImageDir}/{ImageID}"

# About the study, not about the patient: `exclude` marks a report that says nothing of the film.
_NO_FINDINGS = ("exclude", "suboptimal study")
_TREE_LINE = re.compile(r"^(?P<prefix>[\s│├└─]*)(?P<term>[^\[\\]+?)\s*(\[.*)?\\*\s*$")
_INDENT = 4
_TREE_SOURCE = "must be tree_term_CUI_counts_160K.csv of github.com/auriml/Rx-thorax-automatic-captioning"


def read(config: ManifestConfig) -> Labelled:
    """PadChest in the common form; images without a label, or labelled `exclude`, are left out.

    Raises:
        ManifestError: Columns are missing, a list cannot be read, or a finding is no label of the table.
    """
    table = read_table(config.path)
    columns = ("ImageID", "PatientID", "Projection", "Labels", "PatientBirth", "StudyDate_DICOM", "PatientSex_DICOM")
    require(table, columns, config.path)
    problems: list[str] = []
    lists = _parse_all(table["Labels"], problems)
    told = lists.map(lambda labels: bool(labels) and "exclude" not in labels).to_numpy(bool)
    groups = top_terms(_read_tree(config.tree_path)) if config.tree_path else None
    if groups is not None:
        lists = lists.map(lambda labels: sorted({term for label in labels for term in groups.get(label, ())}))
    findings = config.findings or (tuple(_in_order(groups)) if groups is not None else SPECIFIC)
    known = [normalised(finding) for finding in findings]
    _check_known(config, lists)
    frame = pd.DataFrame(
        {
            "name": text(table["ImageID"]),
            "line": lines_of(table),
            "path": image_paths(table, config.layout or LAYOUT, config.path),
            "patient_id": text(table["PatientID"]),
            "part": None,
            "sex": sexes(table["PatientSex_DICOM"]),
            "age": _ages(table),
            "view": text(table["Projection"]),
        }
    )
    if "Manufacturer_DICOM" in table:
        frame["manufacturer"] = text(table["Manufacturer_DICOM"])
    labels = label_lists(lists, known).set_axis(list(findings), axis=1)
    notes = (f"{len(table):,} images in the table", f"{int(told.sum()):,} with a label")
    if not told.any():
        raise ManifestError(f"No image of {config.path} is left: {', '.join(notes)}; check the column Labels.")
    return Labelled(pd.concat([frame, labels], axis=1)[told], tuple(findings), notes=notes, problems=tuple(problems))


def normalised(label: str) -> str:
    """A label without capitals and needless blanks."""
    return " ".join(label.lower().split())


def parse_labels(cell: str) -> list[str]:
    """The labels in a cell such as `['pleural effusion', ' COPD signs']`; none in a blank one.

    Raises:
        ValueError: The text is no Python list of strings.
    """
    if not cell:
        return []
    try:
        values = ast.literal_eval(cell)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"{cell[:60]!r} is no list") from error
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{cell[:60]!r} is no list of names")
    return [name for name in map(normalised, values) if name]


def top_terms(tree: str) -> dict[str, tuple[str, ...]]:
    """Label -> the terms below a root of PadChest's tree that hold it: the paper's general labels.

    A line is indentation in steps of four characters of `│`, `├`, `└`, `─` and blanks, a term, and
    `[CUI:..., counts:...]`. Roots (`radiological finding`, `differential diagnosis`) stand without indentation, or are
    missing as in the published file of 160K; a root without children, such as `normal`, is a term itself. A label
    that stands in several places belongs to several terms; `localization` is no finding.

    Raises:
        ManifestError: No line is indented as a tree's would be.
    """
    places: dict[str, dict[str, None]] = {"normal": {"normal": None}}
    root = top = ""
    for line in tree.splitlines():
        match = _TREE_LINE.match(line)
        if match is None:
            continue
        term, depth = normalised(match["term"]), len(match["prefix"]) // _INDENT
        root, top = (term, top) if depth == 0 else (root, term if depth == 1 else top)
        if depth > 0 and root != "localization":
            places.setdefault(term, {})[top] = None
    if len(places) == 1:
        raise ManifestError(
            "The tree holds no indented terms; it must be PadChest's tree_term_CUI_counts file, one term a line."
        )
    return {label: tuple(terms) for label, terms in places.items() if label not in _NO_FINDINGS}


def _in_order(groups: dict[str, tuple[str, ...]]) -> list[str]:
    """The top-level terms, each once, in the order of the tree."""
    return list(dict.fromkeys(term for terms in groups.values() for term in terms))


def _parse_all(column: "pd.Series[str]", problems: list[str]) -> "pd.Series[list[str]]":
    """The lists of all rows; those that cannot be read are added to `problems`, and are empty."""
    cells, parsed, wrong = text(column), [], []
    for cell in cells:
        try:
            parsed.append(parse_labels(cell))
            wrong.append(False)
        except ValueError:
            parsed.append([])
            wrong.append(True)
    problems += describe(np.array(wrong, bool), cells, repr, "Labels must be a Python list of names, not")
    return pd.Series(parsed, index=column.index, dtype=object)


def _read_tree(path: str) -> str:
    """The text of the tree; raises ManifestError, which says where it is published."""
    try:
        return read_text(path)
    except ManifestError as error:
        raise ManifestError(f"{str(error).removesuffix(' check the path.')} it {_TREE_SOURCE}.") from error


def _check_known(config: ManifestConfig, lists: "pd.Series[list[str]]") -> None:
    """Raise ManifestError for findings that no image of the whole table has: they are misspelt, or general terms."""
    used = sorted({label for labels in lists for label in labels})
    absent = [f"{name!r}{near(normalised(name), used)}" for name in config.findings if normalised(name) not in used]
    if absent:
        tree = "" if config.tree_path else f"; for general terms manifest.tree_path {_TREE_SOURCE}"
        raise ManifestError(
            f"No image of {config.path} has the labels {', '.join(absent)}; check manifest.findings{tree}."
        )


def _ages(table: pd.DataFrame) -> "pd.Series[float]":
    """Years from the year of birth to the year of the study; NaN when either is missing."""
    age = numbers_of(text(table["StudyDate_DICOM"]).str[:4]) - numbers_of(table["PatientBirth"])
    return age.where(age.between(0, 120))
