"""A table of your own: one row per image, its findings in columns of their own or as a list in one column."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from cxr_ray.config import ManifestConfig
from cxr_ray.errors import ManifestError
from cxr_ray.labels.tables import (
    METADATA,
    Labelled,
    ages,
    image_paths,
    label_lists,
    labels_of,
    lines_of,
    near,
    read_table,
    require,
    sexes,
    text,
)

_READ: dict[str, Callable[["pd.Series[str]"], "pd.Series[Any]"]] = {"sex": sexes, "age": ages}
_ALIASES = {"valid": "validation", "val": "validation", "validate": "validation"}


def read(config: ManifestConfig) -> Labelled:
    """The table in the common form. Raises ManifestError for missing columns and misspelt findings."""
    table = read_table(config.path)
    named = {kind: getattr(config, f"{kind}_column") for kind in METADATA}
    optional = [config.part_column, config.label_column, *named.values()]
    wanted = [config.patient_column, *(name for name in optional if name is not None)]
    wanted += [] if config.layout else [config.uri_column]
    require(table, [*wanted, *(config.findings if config.label_column is None else ())], config.path)
    paths = image_paths(table, config.layout, config.path) if config.layout else text(table[config.uri_column])
    frame = pd.DataFrame(
        {"name": paths, "line": lines_of(table), "path": paths, "patient_id": text(table[config.patient_column])}
    )
    frame["part"] = text(table[config.part_column]).replace(_ALIASES) if config.part_column else None
    for kind, column in named.items():
        if column is not None:
            frame[kind] = _READ.get(kind, text)(table[column])
    problems: list[str] = []
    labels = _lists(table, config) if config.label_column else _columns(table, config, problems)
    return Labelled(pd.concat([frame, labels], axis=1), config.findings, problems=tuple(problems))


def _columns(table: pd.DataFrame, config: ManifestConfig, problems: list[str]) -> pd.DataFrame:
    """One column per finding, -1 by the policy of the finding; unusable labels are added to `problems`."""
    policies = {finding: config.uncertain_findings.get(finding, config.uncertain) for finding in config.findings}
    labels = {
        finding: labels_of(table[finding], finding, problems, uncertain=policy) for finding, policy in policies.items()
    }
    return pd.DataFrame(labels, index=table.index)


def _lists(table: pd.DataFrame, config: ManifestConfig) -> pd.DataFrame:
    """The lists of the label column; a finding that no list names is an error, for it is most likely misspelt."""
    split = text(table[str(config.label_column)]).str.split(config.label_separator, regex=False)
    lists = split.map(lambda names: [name.strip() for name in names if name.strip()])
    known = sorted({name for row in lists for name in row})
    absent = [f"{finding!r}{near(finding, known)}" for finding in config.findings if finding not in known]
    if absent:
        raise ManifestError(
            f"No list in column {config.label_column} of {config.path} names {', '.join(absent)}; check the spelling"
            f" and the separator {config.label_separator!r}."
        )
    return label_lists(lists, config.findings)
