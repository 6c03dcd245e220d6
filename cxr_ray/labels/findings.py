"""Findings: the F things that are looked for, their fixed order, and the codes of their labels.

A label is 1 (present), 0 (absent) or NaN (not stated). Knows no table and no model.
"""

import re
from collections.abc import Sequence

from cxr_ray.errors import ConfigError

PRESENT, ABSENT, NOT_STATED = 1.0, 0.0, float("nan")

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9 _./()-]*$")


def column_suffix(finding: str) -> str:
    """The finding as part of a column name: everything but letters, digits and `_` becomes `_`."""
    return re.sub(r"[^A-Za-z0-9_]", "_", finding)


def check_findings(findings: Sequence[str]) -> tuple[str, ...]:
    """The findings as a tuple; raises ConfigError when a name is unusable or two would share a column."""
    for finding in findings:
        if not _NAME.match(finding):
            raise ConfigError(f"Finding {finding!r} is no usable name; use letters, digits, blanks and _ . / ( ) -.")
    by_column: dict[str, str] = {}
    for finding in findings:
        other = by_column.setdefault(column_suffix(finding), finding)
        if other != finding or list(findings).count(finding) > 1:
            raise ConfigError(f"Findings {other!r} and {finding!r} would share one column; rename one of them.")
    return tuple(findings)
