"""Scores against labels: every measure per finding, and the rules of combination side by side."""

from collections.abc import Mapping
from typing import Any

from cxr_ray.evaluation.report.charts import Line, Mark, line_chart
from cxr_ray.evaluation.report.sections.blocks import Figure, Section, Table, Words, notes, spoken
from cxr_ray.labels.tables import counted

Document = Mapping[str, Any]
MEASURES = {
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "f1": "F1",
    "f1_paper": "F1, mean of both classes",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "mcc": "MCC",
    "brier": "Brier",
    "calibration_error": "Calibration error",
    "hamming": "Hamming loss",
}


def section(evaluation: Document) -> Section:
    """Counts, the table of measures, and the table of the rules."""
    measures = list(evaluation["measures"])
    heads = ["Finding", "Positives", "Negatives", *(MEASURES.get(name, spoken(name)) for name in measures)]
    rows = [
        [spoken(finding), values["num_positives"], values["num_negatives"], *(values[name] for name in measures)]
        for finding, values in evaluation["findings"].items()
    ]
    foot = [
        [label, "", "", *(evaluation[key].get(name) for name in measures)]
        for key, label in (("macro", "Macro mean"), ("weighted", "Weighted by positives"))
    ]
    return Section(
        "performance",
        "Performance",
        [
            Words(_counts(evaluation)),
            Words(_intervals(evaluation), "quiet"),
            Table("Measures per finding", heads, rows, foot),
            *_rules(evaluation, measures),
            *notes(evaluation),
        ],
    )


def _counts(evaluation: Document) -> str:
    """Who took part."""
    return (
        f"{counted(evaluation['num_labelled'], 'labelled image')}: {evaluation['num_scored']:,} scored,"
        f" {evaluation['num_faulted']:,} faulted, {evaluation['num_unscored']:,} without a row;"
        f" {counted(evaluation['num_unlabelled'], 'scored image')} without a label."
    )


def _intervals(evaluation: Document) -> str:
    """How the intervals were made."""
    unit = "patients" if evaluation["clustered_by"] else "images (the table names no patients)"
    return (
        f"In brackets: 95 % intervals of {evaluation['draws']:,} draws of {evaluation['num_patients']:,} {unit}. F1,"
        " sensitivity, specificity, MCC and Hamming loss hold at the threshold. A dash: the labels leave it undefined."
    )


def _rules(evaluation: Document, measures: list[str]) -> list[Words | Table]:
    """The paper's table: members and ways to combine them, macro means; none without members' probabilities."""
    rules = evaluation["rules"]
    if not rules:
        return []
    rows = [[_rule_name(name, values), *(values[m] for m in measures)] for name, values in rules.items()]
    differences = evaluation.get("differences") or {}
    foot = [["CTP minus the best member", *(differences.get(name) for name in measures)]] if differences else []
    heads = ["Rule", *(MEASURES.get(name, spoken(name)) for name in measures)]
    words = "Members and the ways to combine them, macro means over the same images and draws."
    return [Words(words), Table("Rules of combination", heads, rows, foot)]


def _rule_name(name: str, values: Document) -> str:
    """A member by its name, a rule with what it does."""
    if values["kind"] == "member":
        return f"Member {name}"
    return name if values["label"] == name else f"{name}, {values['label']}"


def card_figures(evaluation: Document, finding: str) -> list[Figure]:
    """ROC, precision and recall, and reliability of one finding; none where it has no curves."""
    curves, about = evaluation["curves"].get(finding), f"of {spoken(finding)}"
    if not curves or not curves["roc"]:
        return []
    found = evaluation["findings"][finding]
    roc, pr = ([Line(spoken(finding), curves[name])] for name in ("roc", "pr"))
    marks = [
        Mark(
            bin_["predicted"],
            bin_["observed"],
            bin_["low"],
            bin_["high"],
            f"predicted {bin_['predicted']:.2f}, observed {bin_['observed']:.2f}, {bin_['count']:,} images",
        )
        for bin_ in curves["reliability"]
        if bin_["observed"] is not None
    ]
    return [
        Figure(
            f"ROC, area {interval_words(found['auroc'])}",
            line_chart(
                roc, title=f"ROC curve {about}", axes=("false positive rate", "true positive rate"), diagonal=True
            ),
        ),
        Figure(
            f"Precision and recall, area {interval_words(found['average_precision'])}",
            line_chart(pr, title=f"Precision-recall curve {about}", axes=("recall", "precision")),
        ),
        Figure(
            f"Reliability, error {interval_words(found['calibration_error'])}",
            line_chart(
                [],
                title=f"Reliability diagram {about}",
                axes=("predicted probability", "observed share"),
                marks=marks,
                diagonal=True,
            ),
        ),
    ]


def interval_words(interval: Mapping[str, Any]) -> str:
    """Such as `0.812 (0.770 to 0.850)`."""
    if interval["value"] is None:
        return "not defined"
    bounds = "" if interval["low"] is None else f" ({interval['low']:.3f} to {interval['high']:.3f})"
    return f"{interval['value']:.3f}{bounds}"
