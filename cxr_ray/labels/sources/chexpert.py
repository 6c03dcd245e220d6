"""CheXpert: train.csv and valid.csv, fourteen labels that are 1, 0, -1 (uncertain) or blank (not mentioned).

Source: Irvin et al. 2019, CheXpert. MIMIC-CXR-JPG's labels were made by the same labeler and are read with its rules.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxr_ray.config import ManifestConfig
from cxr_ray.labels.tables import (
    Labelled,
    ages,
    image_paths,
    labels_of,
    lines_of,
    numbers_of,
    read_table,
    require,
    sexes,
    text,
)

NO_FINDING, DEVICES = "No Finding", "Support Devices"
FINDINGS = (
    *(NO_FINDING, "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    DEVICES,
)
LAYOUT = "{Path}"


def read(config: ManifestConfig) -> Labelled:
    """CheXpert in the common form; the views are AP, PA, LL, RL of frontal films and Lateral.

    valid.csv, whose labels are the consensus of radiologists, is the test part: its 234 images are too few to choose
    thresholds on, and validation is drawn from the training patients. Raises ManifestError.
    """
    findings = config.findings or FINDINGS
    problems: list[str] = []
    frame = _read_part(config.path, findings, config, problems).assign(part=None)
    if config.test_path is not None:
        test = _read_part(config.test_path, findings, config, problems)
        frame = pd.concat([frame.assign(part="train"), test.assign(part="test")], ignore_index=True)
    return Labelled(frame, findings, problems=tuple(problems))


def labeler_labels(
    table: pd.DataFrame, findings: Sequence[str], config: ManifestConfig, problems: list[str]
) -> pd.DataFrame:
    """Labels 1, 0 or NaN by the policies for uncertain and unmentioned findings; others are added to `problems`.

    Where No Finding is 1, what is not mentioned is absent, but for Support Devices, which are no finding; and where
    another finding is mentioned as present or uncertain, a blank No Finding is 0, which the tables never write.
    """
    others = [finding for finding in findings if finding not in (NO_FINDING, DEVICES)]
    mentioned = table[others].apply(lambda column: numbers_of(column).isin([1, -1]))
    ill = mentioned.any(axis=1).to_numpy()
    healthy = (numbers_of(table[NO_FINDING]) == 1).to_numpy()
    labels = {}
    for finding in findings:
        policy = config.uncertain_findings.get(finding, config.uncertain or "ignore")
        values = labels_of(table[finding], finding, problems, uncertain=policy)
        blank = (text(table[finding]) == "").to_numpy()
        implied = ill if finding == NO_FINDING else healthy & (finding != DEVICES)
        absent = blank & (implied | (config.unmentioned == "zeros"))
        labels[finding] = np.where(absent, np.float32(0.0), values)
    return pd.DataFrame(labels, index=table.index)


def _read_part(path: str, findings: Sequence[str], config: ManifestConfig, problems: list[str]) -> pd.DataFrame:
    """One of the two tables in the common form, without its part."""
    table = read_table(path)
    require(table, ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", NO_FINDING, *findings), path)
    names = text(table["Path"])
    patients = names.str.extract(r"(patient\d+)", expand=False).fillna("")
    frontal = text(table["Frontal/Lateral"]) == "Frontal"
    frame = pd.DataFrame(
        {
            "name": names,
            "line": lines_of(table),
            "path": image_paths(table, config.layout or LAYOUT, path),
            "patient_id": patients,
            "sex": sexes(table["Sex"]),
            "age": ages(table["Age"]),
            "view": text(table["AP/PA"]).where(frontal, text(table["Frontal/Lateral"])),
        }
    )
    return pd.concat([frame, labeler_labels(table, findings, config, problems)], axis=1)
