"""The JSON documents that a report is made of: read, checked to be of its ensemble, and turned into its sections."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cxr_ray.errors import ConfigError
from cxr_ray.evaluation.report.sections import agreement, drift, localisation, performance, subgroups
from cxr_ray.evaluation.report.sections.blocks import Figure, Section, absent

Document = Mapping[str, Any]
Made = TypeVar("Made")


def read_document(path: Path) -> dict[str, Any]:
    """A JSON document of another command; raises ConfigError when it cannot be read or is none."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); name a file that exists.") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON; keep what `cxr-ray ... --json` prints.") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is no JSON object; keep what `cxr-ray ... --json` prints.")
    return document


def make_sections(
    evaluation: Document | None, audit: Document | None, drifted: Document | None, *, digest: str
) -> list[Section]:
    """The sections of the documents that are there, and one line for each that is not.

    Raises ConfigError when a document is of another ensemble than `digest`, or not in the form of its command.
    """
    sections: list[Section | None] = []
    if evaluation is None:
        command = "`cxr-ray report --manifest labels.csv` compares the scores with labels"
        sections.append(absent("performance", "Performance", command))
    else:
        _check_ensemble(evaluation, "evaluation", digest)
        sections.append(_made("evaluation", performance.section, evaluation))
        if evaluation.get("agreement"):
            sections.append(_made("evaluation", agreement.section, evaluation["agreement"]))
        sections.append(_made("evaluation", subgroups.section, evaluation))
    if audit is None:
        command = "`cxr-ray audit OUT --ensemble BUNDLE --manifest labels.csv` measures it, `--audit` adds it"
        sections.append(absent("localisation", "Localisation and shortcuts", command))
    else:
        _check_ensemble(audit, "audit", digest)
        sections.append(_made("audit", localisation.section, audit))
        if audit.get("shortcuts"):
            sections.append(_made("audit", localisation.shortcuts, audit["shortcuts"]))
    if drifted is None:
        command = "`cxr-ray drift OUT_A OUT_B --json` compares two runs, `--drift` adds it"
        sections.append(absent("drift", "Drift", command))
    else:
        if "ensemble_digest" in drifted.get("current", {}):
            _check_ensemble(drifted["current"], "drift", digest)
        sections.append(_made("drift", drift.section, drifted))
    return [section for section in sections if section is not None]


def finding_figures(evaluation: Document | None, findings: Sequence[str]) -> dict[str, list[Figure]]:
    """The charts of each finding's card; none without an evaluation."""
    if evaluation is None:
        return {}
    return {
        finding: _made("evaluation", partial(performance.card_figures, finding=finding), evaluation)
        for finding in findings
    }


def _check_ensemble(document: Document, name: str, digest: str) -> None:
    """Refuse what was measured on another ensemble's scores."""
    if document.get("ensemble_digest") != digest:
        raise ConfigError(
            f"The {name} is of the ensemble {document.get('ensemble_digest')}, these scores are of {digest}; make it"
            " again for these scores, or choose others with --ensemble-digest."
        )


def _made(name: str, make: Callable[[Document], Made], document: Document) -> Made:
    """A part of the report made of a document; raises ConfigError when the document has another form."""
    try:
        return make(document)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"The {name} is not in the form that this version of `cxr-ray` writes ({error!r}); make it again."
        ) from error
