"""Where the maps look: methods against controls, sanity checks, deletion and insertion, and shortcuts."""

from collections.abc import Mapping
from typing import Any

from cxr_ray.evaluation.report.charts import Bar, Line, forest, line_chart
from cxr_ray.evaluation.report.sections.blocks import Cell, Figure, Figures, Section, Table, Words, notes, spoken
from cxr_ray.evaluation.shortcuts.verdicts import verdict

Document = Mapping[str, Any]
_MEASURES = {
    "pointing_game": "Pointing game",
    "hit_rate": "Hit rate",
    "iou": "IoU",
    "miou": "mIoU",
}


def section(audit: Document) -> Section:
    """The verdict, all methods and controls, each finding, sanity and faithfulness."""
    rows: list[list[Cell]] = [
        [values["label"], values["num_maps"], *(values[name] for name in _MEASURES), *values["iobb"].values()]
        for values in audit["localisation"].values()
    ]
    levels = list(dict.fromkeys(level for values in audit["localisation"].values() for level in values["iobb"]))
    difference = audit["ensemble_minus_best_member"]
    blanks = [None] * len(levels)
    best = f"Ensemble minus best member ({audit['best_member']})"
    foot: list[list[Cell]] = [[best, "", *(difference.get(name) for name in _MEASURES), *blanks]]
    heads = ["Map", "Maps", *_MEASURES.values(), *(f"IoBB ≥ {level}" for level in levels)]
    regions = "masks" if audit["regions"] == "masks" else "boxes"
    return Section(
        "localisation",
        "Localisation",
        [
            Words(audit["verdict"], "verdict"),
            Words(
                f"{audit['num_images']:,} images with {regions} of their lesions. Controls know nothing of the film."
            ),
            Table("Methods and controls", heads, rows, foot),
            Figures([_pointing(audit["localisation"])]),
            *_by_finding(audit["localisation"]),
            *_sanity(audit["sanity"]),
            *_faithfulness(audit["faithfulness"]),
            *notes(audit),
        ],
    )


def _pointing(methods: Document) -> Figure:
    """The pointing game of all methods as a forest."""
    bars = [Bar(values["label"], values["pointing_game"]) for values in methods.values()]
    return Figure("Share of maps whose peak lies in the lesion.", forest(bars, title="Pointing game of each method"))


def _by_finding(methods: Document) -> list[Table]:
    """The first method, the ensemble's own, per finding."""
    name, values = next(iter(methods.items()), ("", None))
    if values is None or not values["findings"]:
        return []
    rows = [
        [spoken(finding), found["num_maps"], found["pointing_game"], found["miou"]]
        for finding, found in values["findings"].items()
    ]
    return [Table(f"{values['label'] or name}, per finding", ["Finding", "Maps", "Pointing game", "mIoU"], rows)]


def _sanity(sanity: Document | None) -> list[Words | Table]:
    """Whether the maps change when weights are randomised."""
    if not sanity:
        return []
    rows = [[step["randomised"], step["similarity"]] for step in sanity["steps"]]
    table = Table("Sanity: weights randomised", ["Randomised", "Similarity to the true map"], rows)
    return [table, Words(sanity["verdict"])]


def _faithfulness(methods: Document | None) -> list[Table | Figures]:
    """Deletion and insertion: what is left of the probability when the film goes or comes, hottest first."""
    if not methods:
        return []
    rows = [[values["label"], values["deletion_auc"], values["insertion_auc"]] for values in methods.values()]
    heads = ["Order of the pixels", "Deletion (less is better)", "Insertion (more is better)"]
    figures = []
    for key, words in (("deletion", "removed"), ("insertion", "restored")):
        lines = [Line(values["label"], values[key]) for values in methods.values()]
        picture = line_chart(
            lines,
            title=f"Probability while the film is {words}, hottest first",
            axes=(f"share of the film {words}", "probability"),
        )
        figures.append(Figure(key.capitalize(), picture, [line.label for line in lines]))
    return [Table("Faithfulness: areas under the curves", heads, rows), Figures(figures)]


def shortcuts(study: Document) -> Section:
    """What the scores live on: AUROC with parts of the film masked out."""
    names = list(study["regimes"])
    labels = [study["regimes"][name]["label"] for name in names]
    rows: list[list[Cell]] = [
        [spoken(finding), found["num_positives"], *(_auroc(found["regimes"].get(name)) for name in names)]
        for finding, found in study["findings"].items()
    ]
    foot: list[list[Cell]] = [["Macro mean", "", *(study["regimes"][name]["macro_auroc"] for name in names)]]
    regions = "; ".join(
        f"{values['label']} from {'masks' if values['source'] == 'masks' else 'fixed places'},"
        f" {values['mean_share']:.0%} of the film"
        for values in study["regions"].values()
    )
    said = verdict(study, spoken)
    named = [Words(f"{spoken(item['finding'])}: {item['reason']}", "warning") for item in study["named"]]
    return Section(
        "shortcuts",
        "Shortcuts",
        [
            *named,
            *([Words(said, "quiet" if named else "verdict")] if said else []),
            Words(f"AUROC over {study['num_images']:,} images with parts of the film masked out. Regions: {regions}."),
            Table("AUROC by what is left of the film", ["Finding", "Positives", *labels], rows, foot),
            *notes(study),
        ],
    )


def _auroc(regime: Document | None) -> Cell:
    """The interval of one regime, None where it was not measured."""
    return None if regime is None else regime["auroc"]
