"""What a study of shortcuts comes to, in words, from the document that it is written as. Knows no arrays."""

from collections.abc import Callable, Mapping
from typing import Any

_JUDGED = ("without_lesion", "without_lungs", "only_borders")  # the regimes by which a finding can be named


def verdict(study: Mapping[str, Any], spoken: Callable[[str], str] = str) -> str | None:
    """That no finding is named, or none could be; which were not judged; None where all were and some are named.

    A finding is judged where its AUROC has an interval both whole and without a region: that takes both classes, and
    draws. `spoken` shows the name of a finding.
    """
    unjudged = [spoken(finding) for finding, found in study["findings"].items() if not _is_judged(found["regimes"])]
    if len(unjudged) == len(study["findings"]):
        return (
            "Nothing could be judged: no finding has an AUROC with an interval, which takes images with and without it;"
            " label more images."
        )
    left = f"not judged, for want of an AUROC with an interval: {', '.join(unjudged)}" if unjudged else ""
    if study["named"]:
        return f"{left[0].upper()}{left[1:]}." if left else None
    if left:
        return f"No finding that could be judged survives without the region it should be seen in; {left}."
    return "No finding survives without the region it should be seen in."


def _is_judged(regimes: Mapping[str, Any]) -> bool:
    """Whether one finding could have been named."""
    defined = {name for name, regime in regimes.items() if regime["auroc"]["low"] is not None}
    return "whole" in defined and not defined.isdisjoint(_JUDGED)
