"""Scores by groups of patients and machines, with the gaps between the best and the worst group."""

from collections.abc import Mapping
from typing import Any

from cxr_ray.evaluation.report.charts import Bar, forest
from cxr_ray.evaluation.report.sections.blocks import Cell, Figure, Figures, Section, Table, Words, spoken
from cxr_ray.evaluation.report.sections.performance import MEASURES

Document = Mapping[str, Any]


def section(evaluation: Document) -> Section | None:
    """A forest per column and the gaps; None when no subgroups were asked for."""
    if not evaluation["subgroups"]:
        return None
    macro = evaluation["macro"]["auroc"]["value"]
    lows = [
        group["macro_auroc"]["low"]
        for groups in evaluation["subgroups"].values()
        for group in groups.values()
        if group["macro_auroc"]["low"] is not None
    ]
    low = 0.5 if min(lows, default=1.0) >= 0.5 else 0.0
    figures = [_forest(column, groups, low, macro) for column, groups in evaluation["subgroups"].items()]
    tables = [_findings(column, groups) for column, groups in evaluation["subgroups"].items()]
    words = (
        "Macro AUROC with 95 % intervals; the dashed line is that of all images. The interval of a gap is widened for"
        " all pairs of groups, since best and worst are picked after looking; one that reaches zero is not told from"
        " chance."
    )
    return Section(
        "subgroups",
        "Subgroups",
        [Words(words), Figures(figures), *_gaps(evaluation["gaps"]), *tables],
    )


def _forest(column: str, groups: Document, low: float, macro: float | None) -> Figure:
    """The groups of one column."""
    bars = [Bar(f"{name} ({group['num_images']:,})", group["macro_auroc"]) for name, group in groups.items()]
    title = f"Macro AUROC by {spoken(column)}"
    return Figure(f"By {spoken(column)} (images)", forest(bars, title=title, low=low, reference=macro))


def _gaps(gaps: Document) -> list[Table]:
    """Best minus worst group of every column and measure."""
    rows: list[list[Cell]] = [
        [spoken(column), MEASURES.get(measure, spoken(measure)), gap, gap["best"], gap["worst"]]
        for column, measures in gaps.items()
        for measure, gap in measures.items()
    ]
    return [Table("Gaps between groups", ["Column", "Measure", "Gap", "Best", "Worst"], rows)] if rows else []


def _findings(column: str, groups: Document) -> Table:
    """Every finding in every group of one column."""
    rows: list[list[Cell]] = [
        [
            f"{name}: {spoken(finding)}",
            found["num_positives"],
            found["auroc"],
            found["sensitivity"],
            found["specificity"],
        ]
        for name, group in groups.items()
        for finding, found in group["findings"].items()
    ]
    heads = ["Group and finding", "Positives", "AUROC", "Sensitivity", "Specificity"]
    return Table(f"Findings by {spoken(column)}", heads, rows)
