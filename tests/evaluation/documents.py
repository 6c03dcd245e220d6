"""Invented documents in the forms that `evaluate`, `audit` and `drift` write, complete, with nulls."""

from typing import Any

from tests.evaluation.invented import CONTRACT, FINDINGS

MEASURES = (
    "auroc",
    "average_precision",
    "f1",
    "f1_paper",
    "sensitivity",
    "specificity",
    "mcc",
    "brier",
    "calibration_error",
    "hamming",
)
_VALUES = dict(zip(MEASURES, (0.91, 0.72, 0.66, 0.79, 0.7, 0.93, 0.61, 0.08, 0.04, 0.09), strict=True))
_MEMBERS = CONTRACT.members


def interval(value: float | None, width: float = 0.04) -> dict[str, float | None]:
    if value is None:
        return {"value": None, "low": None, "high": None}
    return {"value": value, "low": round(value - width, 4), "high": round(value + width, 4)}


def measures(shift: float = 0.0, *, defined: bool = True) -> dict[str, Any]:
    return {name: interval(round(value + shift, 4) if defined else None) for name, value in _VALUES.items()}


def curves(bend: float) -> dict[str, Any]:
    steps = [i / 20 for i in range(21)]
    return {
        "roc": [[x, x**bend] for x in steps],
        "pr": [[x, 1 - 0.6 * x**2] for x in steps],
        "reliability": [
            {"predicted": x, "observed": x**1.2, "low": max(0, x**1.2 - 0.1), "high": min(1, x**1.2 + 0.1), "count": 9}
            for x in (0.05, 0.25, 0.5, 0.75, 0.95)
        ],
    }


def evaluation() -> dict[str, Any]:
    """What `cxr-ray evaluate --json` writes; the last finding has one class only, and one group is too small."""
    first, second, last = FINDINGS
    found = {
        finding: {
            "num_positives": 12,
            "num_negatives": 40,
            "prevalence": 12 / 52,
            "threshold": threshold,
            **measures(-0.03 * f),
        }
        for f, (finding, threshold) in enumerate(zip(FINDINGS, CONTRACT.thresholds, strict=True))
    }
    found[last] |= {"num_positives": 0, "num_negatives": 52, "prevalence": 0.0, **measures(defined=False)}
    rules = {name: {"label": name, "kind": "member", **measures(-0.02 * (m + 1))} for m, name in enumerate(_MEMBERS)}
    labels = {"CTP": "mean of probabilities", "PTC-lw": "vote per label", "PTC-mode": "most frequent label set"}
    rules |= {
        name: {"label": label, "kind": "rule", **measures(-0.01 * r)} for r, (name, label) in enumerate(labels.items())
    }
    rules["PTC-mode"]["auroc"] = interval(None)
    group = {
        "num_images": 26,
        "num_patients": 20,
        "macro_auroc": interval(0.9, 0.06),
        "findings": {
            first: {
                "num_positives": 6,
                "auroc": interval(0.91),
                "sensitivity": interval(0.7),
                "specificity": interval(0.9),
            },
            second: {
                "num_positives": 5,
                "auroc": interval(0.88),
                "sensitivity": interval(0.6),
                "specificity": interval(0.95),
            },
            last: {
                "num_positives": 0,
                "auroc": interval(None),
                "sensitivity": interval(None),
                "specificity": interval(0.97),
            },
        },
    }
    small = {**group, "num_images": 2, "num_patients": 2, "macro_auroc": interval(None)}
    return {
        "ensemble_digest": CONTRACT.ensemble_digest,
        "num_labelled": 55,
        "num_scored": 52,
        "num_faulted": 2,
        "num_unscored": 1,
        "num_unlabelled": 3,
        "num_patients": 40,
        "clustered_by": "patient_id",
        "draws": 1000,
        "measures": list(MEASURES),
        "findings": found,
        "macro": {name: {**value, "num_defined": 2} for name, value in measures(-0.015).items()},
        "weighted": measures(-0.012),
        "rules": rules,
        # Of a calibrated CTP: none on the scale of the probabilities.
        "differences": {name: interval(0.01, 0.02) for name in MEASURES if name not in ("brier", "calibration_error")},
        "curves": {first: curves(0.25), second: curves(0.4), last: {"roc": [], "pr": [], "reliability": []}},
        "subgroups": {
            "sex": {"F": group, "M": {**group, "macro_auroc": interval(0.86, 0.07)}},
            "view": {"PA": group, "AP <b>": small},
        },
        "gaps": {
            "sex": {"macro_auroc": {**interval(0.04, 0.05), "best": "F", "worst": "M"}},
            "view": {"macro_auroc": {**interval(None), "best": None, "worst": None}},
        },
        "agreement": agreement(),
        "notes": ["Nodule / other (small) has no positives: its measures are undefined <i>."],
    }


def agreement() -> dict[str, Any]:
    """What the study of agreement says."""
    names = {
        "confidence": ("plain confidence", "confidence", 0.79),
        "votes": ("votes", "agreement", 0.74),
        "spread": ("spread of the members", "agreement", 0.81),
        "map_agreement": ("agreement of the maps", "agreement", None),
    }
    signals = {
        name: {
            "label": label,
            "kind": kind,
            "num_decisions": 156 if auroc else 0,
            "num_errors": 14 if auroc else 0,
            "error_auroc": interval(auroc),
            "within_finding": interval(auroc and auroc - 0.01),
            "difference": interval(auroc and round(auroc - 0.79, 4), 0.05),
            "difference_within_finding": interval(auroc and round(auroc - 0.8, 4), 0.05),
            "aurc": interval(0.03 if auroc else None, 0.01),
            "aurc_difference": interval(0.004 if auroc else None, 0.01),
            "partial": interval(None if kind == "confidence" or auroc is None else 0.12, 0.08),
            "partial_note": "given confidence" if kind == "agreement" else None,
            "risk_coverage": [[i / 20, 0.09 * (i / 20) ** (3 * auroc)] for i in range(1, 21)] if auroc else [],
        }
        for name, (label, kind, auroc) in names.items()
    }
    row = {"num_decisions": 52, "accuracy": interval(0.93), "calibration_error": interval(0.05, 0.02)}
    located = {**interval(0.7, 0.1), "count": 10}
    return {
        "num_decisions": 156,
        "num_errors": 14,
        "error_rate": interval(0.09, 0.03),
        "signals": signals,
        "best_agreement_signal": "spread",
        "difference_from_confidence": interval(0.02, 0.05),
        "verdict": "The spread finds errors about as well as plain confidence: the difference is not told from none.",
        "by_votes": [{"votes": v, **row, "located": located if v else None} for v in range(len(_MEMBERS) + 1)],
        "by_spread": [
            {"low": 0.0, "high": 0.1, **row, "located": None},
            {"low": 0.1, "high": 0.3, **row, "located": located},
        ],
        "by_map_agreement": [],
        "findings": {
            finding: {
                "num_decisions": 52,
                "num_errors": 9 * f,
                "confidence": interval(0.8),
                "best": interval(0.78 if f else None),
                "difference": interval(-0.02 if f else None),
            }
            for f, finding in enumerate(FINDINGS)
        },
        "notes": ["Of 156 decisions 60 have a heat map."],
    }


def audit() -> dict[str, Any]:
    """What `cxr-ray audit` writes."""
    kinds = {
        "ensemble": ("Grad-CAM, ensemble", "ensemble", 0.62),
        **{f"member:{name}": (f"Grad-CAM, {name}", "member", 0.5 + 0.03 * m) for m, name in enumerate(_MEMBERS)},
        "gradcam++": ("Grad-CAM++, ensemble", "method", 0.6),
        "random": ("random map", "control", 0.08),
        "centre": ("centre of the film", "control", 0.2),
    }
    localisation = {
        name: {
            "label": label,
            "kind": kind,
            "num_maps": 24,
            "pointing_game": interval(value, 0.08),
            "hit_rate": interval(value + 0.05, 0.08),
            "iou": interval(value / 2, 0.05),
            "miou": interval(value / 2, 0.05),
            "iobb": {
                level: interval(max(0.02, value - float(level) / 2), 0.02)
                for level in ("0.1", "0.25", "0.5", "0.75", "0.9")
            },
            "findings": {FINDINGS[0]: {"num_maps": 12, "pointing_game": interval(value), "miou": interval(None)}},
        }
        for name, (label, kind, value) in kinds.items()
    }
    fall = [[i / 10, 0.8 * (1 - i / 10) ** 2] for i in range(11)]
    rise = [[i / 10, 0.8 * (i / 10) ** 0.4] for i in range(11)]
    return {
        "ensemble_digest": CONTRACT.ensemble_digest,
        "num_images": 24,
        "regions": "boxes",
        "localisation": localisation,
        "best_member": "three",
        "ensemble_minus_best_member": {"pointing_game": interval(0.06, 0.08), "miou": interval(0.03, 0.02)},
        "verdict": "The ensemble's map hits the lesion as often as its best member's, within what chance allows.",
        "sanity": {
            "steps": [
                {"randomised": "nothing", "similarity": interval(1.0, 0.0)},
                {"randomised": "the head", "similarity": interval(0.31, 0.1)},
                {"randomised": "everything", "similarity": interval(0.05, 0.1)},
            ],
            "verdict": "The maps change with the weights.",
        },
        "faithfulness": {
            name: {
                "label": label,
                "deletion": fall,
                "insertion": rise,
                "deletion_auc": interval(0.27, 0.05),
                "insertion_auc": interval(0.58, 0.05),
            }
            for name, label in (("ensemble", "Grad-CAM, ensemble"), ("random", "random order"))
        },
        "shortcuts": shortcuts(),
        "notes": ["Boxes of 3 images lie outside the film."],
    }


def shortcuts() -> dict[str, Any]:
    """What the audit of shortcuts says."""
    regimes = {
        "whole": ("whole film", 0.9),
        "without_lungs": ("lungs masked out", 0.6),
        "only_lungs": ("only the lungs", 0.85),
        "without_borders": ("borders masked out", 0.88),
        "only_borders": ("only the borders", None),
        "without_lesion": ("lesion masked out", 0.55),
        "only_lesion": ("only the lesion", 0.8),
    }
    return {
        "num_images": 24,
        "regions": {
            "lungs": {"label": "lungs", "source": "fixed", "mean_share": 0.45},
            "borders": {"label": "borders", "source": "fixed", "mean_share": 0.2},
            "lesion": {"label": "lesion", "source": "masks", "mean_share": 0.03},
        },
        "findings": {
            finding: {
                "num_positives": 12 if f < 2 else 0,
                "regimes": {
                    name: {"auroc": interval(value if f < 2 else None)} for name, (_, value) in regimes.items()
                },
            }
            for f, finding in enumerate(FINDINGS)
        },
        "regimes": {name: {"label": label, "macro_auroc": interval(value)} for name, (label, value) in regimes.items()},
        "named": [{"finding": FINDINGS[0], "reason": "AUROC without the lungs is 0.81 (0.74 to 0.88), above chance."}],
        "notes": [],
    }


def shift(measure: str, psi: float, *, finding: str | None = None, **changes: Any) -> dict[str, Any]:
    values = {"psi": psi, "chance": 0.02, "ks": 0.11, "reference": 0.21, "current": 0.27, "drifted": psi > 0.2}
    return {"measure": measure, "finding": finding, **values, **changes}


def drift() -> dict[str, Any]:
    """What `cxr-ray drift` writes."""
    shifts = [shift("probability", 0.31, finding=FINDINGS[0]), shift("spread", 0.05, finding=FINDINGS[0])]
    return {
        "reference": {"output": "s3://bucket/october", "rows": 900, "ensemble_digest": CONTRACT.ensemble_digest},
        "current": {"output": "s3://bucket/november", "rows": 700, "ensemble_digest": CONTRACT.ensemble_digest},
        "max_psi": 0.2,
        "overall": [*shifts, shift("probability", 0.02, finding=FINDINGS[1], ks=None)],
        "groups": {
            "view_position": {
                "PA": {"reference_rows": 800, "current_rows": 500, "shifts": shifts, "missing": None},
                "LL": {"reference_rows": 0, "current_rows": 200, "shifts": None, "missing": "The reference has no LL."},
            }
        },
        "header": [shift("manufacturer", 0.4, ks=None, reference="ACME 80 %", current="ACME 40 %")],
        "drifted": [f"probability of {FINDINGS[0]}", "manufacturer"],
        "verdict": "2 of 4 distributions moved by more than 0.2.",
        "notes": ["Header fields of PNG files are missing."],
    }
