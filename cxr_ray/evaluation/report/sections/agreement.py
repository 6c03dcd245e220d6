"""Does agreement mean anything: which signal finds errors, and what is right at which agreement."""

from collections.abc import Mapping
from typing import Any

from cxr_ray.evaluation.report.charts import Line, ceiling, line_chart
from cxr_ray.evaluation.report.sections.blocks import Cell, Figure, Figures, Section, Table, Words, notes, spoken

Document = Mapping[str, Any]
_BY = (("by_votes", "votes"), ("by_spread", "spread"), ("by_map_agreement", "map agreement"))


def section(study: Document) -> Section:
    """The verdict, the signals side by side, the risk-coverage curves, and what holds at each level of agreement."""
    signals = study["signals"]
    decisions = f"{study['num_errors']:,} of {study['num_decisions']:,} decisions are wrong."
    return Section(
        "agreement",
        "Does agreement mean anything?",
        [
            Words(study["verdict"], "verdict"),
            Words(
                f"{decisions} A signal that finds errors has an AUROC above 0.5 and a small area under its curve of"
                " risk. Partial: what it tells of errors beyond plain confidence."
            ),
            _beside_confidence(study),
            _signals(study),
            Figures([_risk(signals)]),
            *(_levels(study[key], name) for key, name in _BY if study[key]),
            _findings(study),
            *notes(study),
        ],
    )


def _beside_confidence(study: Document) -> Table:
    """Error detection by confidence and by the best signal of agreement, and their difference; no best, one row."""
    signals, best = study["signals"], study["best_agreement_signal"]
    measures = {
        "error_auroc": ("AUROC of errors", "difference"),
        "within_finding": ("Within findings", "difference_within_finding"),
        "aurc": ("Area under risk-coverage", "aurc_difference"),
    }
    rows: list[list[Cell]] = [
        [signals[name]["label"], *(signals[name][measure] for measure in measures)]
        for name in ("confidence", *([best] if best else []))
    ]
    difference: list[list[Cell]] = []
    if best:
        numbers = (signals[best][key] for _, key in measures.values())
        difference = [["Best of agreement minus confidence", *numbers]]
    heads = ["Errors found by", *(head for head, _ in measures.values())]
    return Table("Error detection: confidence and the best of agreement", heads, rows, difference)


def _signals(study: Document) -> Table:
    """One row per signal."""
    rows: list[list[Cell]] = [
        [
            values["label"] + (" (best of agreement)" if name == study["best_agreement_signal"] else ""),
            values["num_decisions"],
            values["num_errors"],
            values["error_auroc"],
            values["aurc"],
            values["partial"],
        ]
        for name, values in study["signals"].items()
    ]
    heads = ["Signal", "Decisions", "Errors", "AUROC of errors", "Area under risk-coverage", "Partial"]
    return Table("Signals of an error", heads, rows)


def _risk(signals: Document) -> Figure:
    """Share of errors among the decisions that are kept, the surest first."""
    lines = [Line(v["label"], v["risk_coverage"]) for v in signals.values() if v["risk_coverage"]]
    top = ceiling([risk for line in lines for _, risk in line.points])
    picture = line_chart(
        lines,
        title="Risk against coverage of each signal",
        axes=("share of decisions kept, surest first", "share of them wrong"),
        top=top,
    )
    return Figure("Risk and coverage: the lower the curve, the better the signal.", picture, [v.label for v in lines])


def _levels(rows: list[Document], name: str) -> Table:
    """Accuracy, calibration and localisation at each level of a signal."""
    cells: list[list[Cell]] = [
        [
            str(row["votes"]) if "votes" in row else f"{row['low']:.2f} to {row['high']:.2f}",
            row["num_decisions"],
            row["accuracy"],
            row["calibration_error"],
            row["located"],
            row["located"]["count"] if row["located"] else None,
        ]
        for row in rows
    ]
    heads = [spoken(name).capitalize(), "Decisions", "Accuracy", "Calibration error", "Peak in the lesion", "of maps"]
    return Table(f"What is right, by {name}", heads, cells)


def _findings(study: Document) -> Table:
    """AUROC of error detection per finding, of confidence and of the best signal of agreement."""
    heads = {
        "num_decisions": "Decisions",
        "num_errors": "Errors",
        "confidence": "Confidence",
        "best": "Best signal of agreement",
        "difference": "Difference",
    }
    rows = [[spoken(finding), *(values[name] for name in heads)] for finding, values in study["findings"].items()]
    return Table("AUROC of error detection per finding", ["Finding", *heads.values()], rows)
