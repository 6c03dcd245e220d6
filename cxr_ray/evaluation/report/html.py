"""The report: one self-contained HTML file about the scores in an output folder.

Puts the numbers of `cohort` and `runs`, the panels of `gallery` and the sections made of the caller's JSON documents
into report.html.j2 with its style and script. The file opens from disk without network and refuses, by its content
security policy, to load anything.
"""

import base64
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from numpy.typing import NDArray

from cxr_ray import __version__, storage
from cxr_ray.evaluation.cohort import Cohort, fault_groups, read_cohort, summarise
from cxr_ray.evaluation.metrics import at_or_above
from cxr_ray.evaluation.report.charts import NUM_STYLES
from cxr_ray.evaluation.report.documents import finding_figures, make_sections
from cxr_ray.evaluation.report.gallery import STATUSES, Panel, panels, select
from cxr_ray.evaluation.report.overlay import data_uri, scale_png
from cxr_ray.evaluation.runs import newest_run

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """What was written: where, how much, and how many images it tells of and shows."""

    target: Path
    num_bytes: int
    num_scored: int
    num_faulted: int
    num_shown: int
    num_unreadable: int  # of those shown, without a picture

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "target": str(self.target)}

    def lines(self) -> list[str]:
        """What was written, for people."""
        lost = f" ({self.num_unreadable} cannot be read any more)" if self.num_unreadable else ""
        return [
            f"{self.target} tells of {self.num_scored:,} scored and {self.num_faulted:,} faulted images and shows"
            f" {self.num_shown}{lost}; {self.num_bytes / 1e6:.1f} MB."
        ]


def write_report(
    output: str,
    target: Path,
    *,
    ensemble_digest: str | None = None,
    evaluation: Document | None = None,
    audit: Document | None = None,
    drift: Document | None = None,
    truth: pd.DataFrame | None = None,
    max_images: int = 60,
    title: str = "Chest X-ray scores",
) -> ReportSummary:
    """Write the report on one ensemble's scores below `output` to `target`, whole or not at all.

    Args:
        output: Output folder of `cxr-ray score`, local or s3://.
        target: HTML file to write.
        ensemble_digest: Which ensemble; None stands for the only one.
        evaluation: What `cxr-ray evaluate --json` prints.
        audit: What `cxr-ray audit` writes.
        drift: What `cxr-ray drift --json` prints.
        truth: Labels 1, 0 or NaN, indexed by uri, one column per finding; shown beside each reading.
        max_images: Most images in the gallery.
        title: Heading of the page.

    Raises:
        ConfigError: There are no scores, several ensembles and none was chosen, or a document is of another ensemble
            or none of ours.
        StorageError: `output` cannot be read or `target` not written.
    """
    cohort = read_cohort(output, ensemble_digest=ensemble_digest)
    contract = cohort.contract
    sections = make_sections(evaluation, audit, drift, digest=contract.ensemble_digest)
    figures = finding_figures(evaluation, contract.findings)
    labels = None if truth is None else _labels(truth, cohort)
    chosen = select(cohort.probabilities, contract.thresholds, max_images=max_images, labels=labels)
    shown = panels(output, cohort, chosen, truth=truth)
    page = _page(
        title=title,
        output=output,
        run=newest_run(output, contract.ensemble_digest),
        panels=shown,
        with_truth=truth is not None,
        sections=sections,
        figures=figures,
        measured={} if evaluation is None else evaluation["findings"],
        **_cohort_values(cohort, shown),
    ).encode()
    storage.put(str(target.absolute()), page)
    return ReportSummary(
        target=target,
        num_bytes=len(page),
        num_scored=cohort.num_scored,
        num_faulted=cohort.num_faulted,
        num_shown=len(shown),
        num_unreadable=sum(panel.film.picture is None for panel in shown),
    )


def _labels(truth: pd.DataFrame, cohort: Cohort) -> NDArray[np.float64]:
    """Labels (N, F) of the cohort's rows and findings; NaN where none is stated."""
    unique = truth[~truth.index.duplicated()]
    found = unique.reindex(index=cohort.rows["uri"], columns=list(cohort.contract.findings))
    labels: NDArray[np.float64] = found.to_numpy(np.float64)
    return labels


def _cohort_values(cohort: Cohort, shown: list[Panel]) -> dict[str, Any]:
    """What the template says about all rows."""
    rows, contract = cohort.rows, cohort.contract
    runs = rows.groupby("run_id")["scored_at"].agg(["max", "size"]).sort_values("max", ascending=False)
    reported = {reading.finding for panel in shown for reading in panel.readings}
    days = rows["scored_at"].dt.strftime("%Y-%m-%d")
    return {
        "contract": contract,
        "num_members": len(contract.members),
        "num_images": len(rows),
        "num_scored": cohort.num_scored,
        "num_faulted": cohort.num_faulted,
        "num_positive_images": int(at_or_above(cohort.probabilities, contract.thresholds).any(axis=1).sum()),
        "runs": list(zip(runs.index, runs["size"].tolist(), strict=True)),
        "scored_from": days.min() if len(rows) else None,
        "scored_to": days.max() if len(rows) else None,
        "faults": fault_groups(cohort),
        "cards": summarise(cohort),
        "shown_findings": [finding for finding in contract.findings if finding in reported],
        "statuses": [status for status in STATUSES if status in {r.status for p in shown for r in p.readings}],
        "with_strips": any(reading.strip for panel in shown for reading in panel.readings),
    }


def _page(**values: Any) -> str:
    """The template filled in, with its style and script inside and a policy that allows these two alone."""
    folder = files("cxr_ray.evaluation.report")
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}';"
        " base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            style=Markup(style),
            script=Markup(script),
            policy=policy,
            scale=data_uri(scale_png(), "image/png"),
            version=__version__,
            made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            **values,
        )
    )


def _hash(text: str) -> str:
    """The source expression that allows exactly this inline text.

    Source: W3C Content Security Policy Level 3, section 2.3.1.
    """
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _environment() -> Environment:
    """Jinja with escaping on and the project's ways of writing numbers."""
    environment = Environment(
        loader=PackageLoader("cxr_ray", "evaluation/report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda number: f"{number:,}",
        "number": lambda value, digits: f"{value:.{digits}f}",
        "defined_number": lambda value: value is not None and not math.isnan(value),
        "share": _share,
        "duration": _duration,
        "log_share": lambda count, most: math.log1p(count) / math.log1p(most) if most else 0.0,
        "marked": _marked,
        "kind": lambda block: type(block).__name__,
        "name": lambda uri: uri.rsplit("/", 1)[-1],
        "spoken": lambda finding: finding.replace("_", " "),
    }
    environment.globals["num_styles"] = NUM_STYLES
    return environment


def _marked(text: str) -> Markup:
    """Escaped text with its `names` of settings set as code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _share(value: float) -> str:
    """A share in percent; a tiny one does not read as none."""
    return "< 0.1 %" if 0 < value < 0.001 else f"{value:.1%}".replace("%", " %")


def _duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds, without leading zeros."""
    hours, minutes = divmod(round(seconds) // 60, 60)
    parts = [(hours, "h"), (minutes, "min"), (round(seconds) % 60, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"
