"""`cxr-ray evaluate` on invented score folders: joins, intervals, rules, subgroups, what is written, bad input."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score

from cxr_ray.errors import ConfigError, ManifestError
from cxr_ray.evaluation import bootstrap
from cxr_ray.evaluation.evaluate import Evaluation, evaluate
from cxr_ray.evaluation.metrics import MEASURES
from cxr_ray.labels.findings import column_suffix
from cxr_ray.scoring.table import Contract
from tests.evaluation.invented import (
    CONTRACT,
    FILMS,
    FINDINGS,
    Scored,
    faulted_row,
    provenance,
    scored_row,
    write_scores,
)

NUM, DRAWS = 240, 60
LEVELS = ((0.5, 0.4, 0.6), (0.3, 0.5, 0.5), (0.6, 0.6, 0.4))
WHOLE = replace(CONTRACT, member_thresholds=LEVELS, combination="mean")


def labels_table(scored: Scored, folder: Path, rows: list[str], head: str = "image,Mass,Pleural_effusion") -> str:
    """A CSV file with labels; images are named relative to the films."""
    path = folder / "labels.csv"
    path.write_text("\n".join([head, *rows]))
    return str(path)


class Cohort:
    """240 invented images of 120 patients, three members that see the truth through noise, and their table."""

    def __init__(self, folder: Path, contract: Contract = WHOLE, *, slope: float | None = None, num: int = NUM) -> None:
        random = np.random.default_rng(3)
        self.labels = (random.random((NUM, 3)) < (0.4, 0.3, 0.2)).astype(float)
        latent = 1.2 * self.labels[:, None] + random.normal(size=(NUM, 3, 3)) - 0.5
        self.members = (1 / (1 + np.exp(-latent))).astype(np.float32)  # (N, M, F)
        self.votes = (self.members >= np.array(LEVELS, np.float32)).sum(axis=1)
        self.mean = self.members.mean(axis=1)
        if slope is not None:  # Platt's scaling
            self.mean = 1 / (1 + (1 / self.mean - 1) ** slope)
        self.uris = [f"/films/{number:03d}.png" for number in range(NUM)]
        self.agreement = random.random(NUM).astype(np.float32)
        write_scores(folder / "out", "a.parquet", [self._row(number) for number in range(num)], contract)
        self.output = str(folder / "out")
        self.table = pd.DataFrame(self.labels.astype(int), columns=list(FINDINGS)).assign(
            uri=self.uris,
            patient_id=[f"p{number // 2}" for number in range(NUM)],
            sex=["Female" if number // 2 % 3 else "M" for number in range(NUM)],
            age=[f"0{20 + number // 2 % 60}Y" for number in range(NUM)],
            dose=[0.5 * (number // 2) for number in range(NUM)],
            station=[f"s{number // 4}" for number in range(NUM)],
            site=["rare" if number < 6 else "usual" for number in range(NUM)],
        )
        self.manifest = str(folder / "labels.csv")
        self.table.to_csv(self.manifest, index=False)

    def _row(self, number: int) -> dict[str, object]:
        """One row of the score table; the first finding has a map in every second row."""
        columns = {
            f"{kind}_{column_suffix(finding)}": values[number, f].item()
            for kind, values in (
                ("probability", self.mean),
                ("votes", self.votes),
                ("spread", self.members.std(axis=1)),
            )
            for f, finding in enumerate(FINDINGS)
        }
        reported = {
            "finding": FINDINGS[0],
            "probability": 0.5,
            "votes": 1,
            "map_agreement": self.agreement[number].item(),
        }
        return {
            **provenance(self.uris[number], "1"),
            **columns,
            "status": "scored",
            "view_position": "PA" if number % 2 else "AP",
            "member_probabilities": self.members[number].ravel().tolist(),
            "findings": [reported] if number % 2 else [],
        }

    def evaluate(self, **changes: object) -> Evaluation:
        """The evaluation with few draws."""
        return evaluate(self.output, self.manifest, **{"num_draws": DRAWS, **changes})


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return Cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def found(cohort: Cohort) -> Evaluation:
    return cohort.evaluate()


def test_evaluate_joins_labels_by_image(scored: Scored, tmp_path: Path) -> None:
    rows = ["a.png,1,0", "b.png,0,1", "c.png,0,1", "negative.png,,0", "s3://bucket/side.dcm,1,1", "unknown.png,1,1"]
    table = labels_table(scored, tmp_path, rows)
    found = evaluate(scored.output, table, uri_column="image", image_root=str(scored.films), num_draws=9)
    counts = found.labelled.counts
    assert (counts.num_labelled, counts.num_scored, counts.num_faulted, counts.num_unscored) == (6, 4, 1, 1)
    assert counts.num_unlabelled == 2
    assert found.metrics.index.tolist() == ["Mass", "Pleural_effusion"]
    mass, effusion = found.metrics.loc["Mass"], found.metrics.loc["Pleural_effusion"]
    assert mass[["num_positives", "num_negatives", "auroc", "specificity"]].tolist() == [1, 2, 1.0, 0.5]
    assert effusion[["num_positives", "num_negatives", "sensitivity", "f1"]].tolist() == [2, 2, 1.0, 1.0]
    assert found.truth.loc[scored.uri("a.png"), "Mass"] == 1
    np.testing.assert_array_equal(found.labelled.map_agreement[:3], [[0.5, np.nan], [0.5, 0.5], [np.nan, 0.5]])
    notes = " ".join(found.notes)
    assert f"1 labelled image was not scored: {scored.uri('unknown.png')}." in notes
    assert "2 scored images have no label" in notes
    assert "The table has no labels of Nodule / other (small)." in notes
    assert "each image counts as a patient" in notes
    assert found.to_dict()["clustered_by"] is None


def test_evaluate_counts_of_one_are_singular(scored: Scored, tmp_path: Path) -> None:
    options = {"uri_column": "image", "image_root": str(scored.films), "num_draws": 0}
    one = evaluate(scored.output, labels_table(scored, tmp_path, ["a.png,1,0"]), **options).lines()[0]
    two = evaluate(scored.output, labels_table(scored, tmp_path, ["a.png,1,0", "b.png,1,0"]), **options).lines()[0]
    assert one.startswith("1 labelled image: 1 scored,")
    assert two.startswith("2 labelled images: 2 scored,")


def test_evaluate_undefined_numbers_are_null_in_json(scored: Scored, tmp_path: Path) -> None:
    table = labels_table(scored, tmp_path, ["a.png,1,0,1", "b.png,1,,0"], "image,Mass,Pleural_effusion,Rib_fracture")
    found = evaluate(scored.output, table, uri_column="image", image_root=str(scored.films), num_draws=0)
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["findings"]["Mass"]["auroc"] == {"value": None, "low": None, "high": None}
    assert values["findings"]["Mass"]["sensitivity"] == {"value": 1.0, "low": None, "high": None}
    assert values["macro"]["auroc"] == {"value": None, "low": None, "high": None, "num_defined": 0}
    assert values["curves"]["Mass"]["roc"] == []
    assert values["rules"] == {}
    notes = " ".join(values["notes"])
    assert "One class or no label at all, so no AUROC: Mass, Pleural_effusion." in notes
    assert "The ensemble does not look for Rib_fracture." in notes
    assert "undefined" in "\n".join(found.lines())


def test_evaluate_values_and_intervals_are_those_of_the_arrays(cohort: Cohort, found: Evaluation) -> None:
    values = found.to_dict()
    assert (values["num_patients"], values["clustered_by"], values["draws"]) == (120, "patient_id", DRAWS)
    bounds = bootstrap.intervals(
        cohort.labels,
        cohort.mean,
        thresholds=CONTRACT.thresholds,
        patients=cohort.table["patient_id"].tolist(),
        findings=FINDINGS,
        num_draws=DRAWS,
    )
    for f, finding in enumerate(FINDINGS):
        auroc = values["findings"][finding]["auroc"]
        assert auroc["value"] == pytest.approx(roc_auc_score(cohort.labels[:, f], cohort.mean[:, f]))
        assert auroc["low"] == pytest.approx(bounds.loc[finding, "auroc_low"])
    prevalence = cohort.labels.mean(axis=0)
    f1 = [values["findings"][finding]["f1"]["value"] for finding in FINDINGS]
    assert values["weighted"]["f1"]["value"] == pytest.approx(np.average(f1, weights=prevalence))
    assert values["macro"]["f1"]["value"] == pytest.approx(np.mean(f1))


def test_evaluate_rules_equal_their_definitions(cohort: Cohort, found: Evaluation) -> None:
    rules = found.to_dict()["rules"]
    assert list(rules) == ["one", "two", "three", "CTP", "PTC-lw", "PTC-mode"]
    voted = cohort.members >= np.array(LEVELS, np.float32)
    sureness = np.abs(cohort.members - np.array(LEVELS)).mean(axis=2)
    mode = np.empty((NUM, 3))
    for image in range(NUM):
        same = [sum((voted[image, m] == voted[image, other]).all() for other in range(3)) for m in range(3)]
        mode[image] = voted[image, max(range(3), key=lambda m: (same[m], sureness[image, m]))]
    scores = {"PTC-lw": cohort.votes / 3, "PTC-mode": mode, "two": cohort.members[:, 1], "CTP": cohort.mean}
    decided = {
        "PTC-lw": cohort.votes >= 2,
        "PTC-mode": mode,
        "two": voted[:, 1],
        "CTP": cohort.mean >= np.array(CONTRACT.thresholds, np.float32),
    }
    for name, values in scores.items():
        auroc = np.mean([roc_auc_score(cohort.labels[:, f], values[:, f]) for f in range(3)])
        paper = np.mean([f1_score(cohort.labels[:, f], decided[name][:, f], average="macro") for f in range(3)])
        assert rules[name]["auroc"]["value"] == pytest.approx(auroc)
        assert rules[name]["f1_paper"]["value"] == pytest.approx(paper)
        assert rules[name]["hamming"]["value"] == pytest.approx((cohort.labels != decided[name]).mean())
    assert not np.array_equal(decided["PTC-lw"], decided["PTC-mode"])


def test_evaluate_difference_from_the_best_member_is_paired(found: Evaluation) -> None:
    values = found.to_dict()
    for measure, sign in (("auroc", 1), ("brier", -1)):
        members = {name: sign * values["rules"][name][measure]["value"] for name in CONTRACT.members}
        difference = values["differences"][measure]
        assert difference["best_member"] == max(members, key=members.__getitem__)
        best, ctp = values["rules"][difference["best_member"]][measure], values["rules"]["CTP"][measure]
        assert difference["value"] == pytest.approx(ctp["value"] - best["value"])
        assert difference["low"] < difference["value"] < difference["high"]
        # Errors of both go together in a draw, so the interval is narrower than that of a difference of strangers.
        widths = [one["high"] - one["low"] for one in (ctp, best)]
        assert difference["high"] - difference["low"] < np.hypot(*widths)


def test_evaluate_calibrated_ctp_is_not_subtracted_from_raw_members_on_the_probability_scale(
    found: Evaluation, tmp_path: Path
) -> None:
    calibrated = Cohort(tmp_path, slope=3.0).evaluate(num_draws=9)
    values = calibrated.to_dict()
    assert set(values["differences"]) == set(MEASURES) - {"brier", "calibration_error"}
    assert values["rules"]["CTP"]["brier"]["value"] != values["rules"]["one"]["brier"]["value"]
    assert any("calibrated and the members are not" in note for note in calibrated.notes)
    assert "CTP minus the best member" in "\n".join(calibrated.lines())
    assert set(found.to_dict()["differences"]) == set(MEASURES)  # as stored the means are those of the members
    assert not any("calibrated and the members are not" in note for note in found.notes)


def test_evaluate_one_image_warns_of_nothing(tmp_path: Path) -> None:
    # torch warns once a process unless it is told to repeat itself, and a warning is an error here.
    torch.set_warn_always(True)
    try:
        found = Cohort(tmp_path, num=1).evaluate(num_draws=0)
    finally:
        torch.set_warn_always(False)
    assert found.to_dict()["num_scored"] == 1
    assert [rule.name for rule in found.rules.rules][-1] == "PTC-mode"


def test_evaluate_without_draws_prints_values_alone(cohort: Cohort) -> None:
    lines = "\n".join(cohort.evaluate(num_draws=0).lines())
    assert "nan" not in lines
    assert f"{roc_auc_score(cohort.labels[:, 0], cohort.mean[:, 0]):.3f} " in lines


def test_evaluate_old_scores_without_member_thresholds_leave_their_decisions_undefined(tmp_path: Path) -> None:
    found = Cohort(tmp_path, CONTRACT).evaluate(num_draws=0)
    rules = found.to_dict()["rules"]
    assert "PTC-mode" not in rules
    assert rules["one"]["f1"]["value"] is None
    assert rules["one"]["auroc"]["value"] > 0.5
    assert any("score again" in note for note in found.notes)


def test_evaluate_ensemble_that_votes_has_its_ctp_computed(cohort: Cohort, tmp_path: Path) -> None:
    found = Cohort(tmp_path, replace(WHOLE, combination="vote")).evaluate(num_draws=0)
    decided = cohort.mean >= np.mean(LEVELS, axis=0).astype(np.float32)
    assert found.to_dict()["rules"]["CTP"]["hamming"]["value"] == pytest.approx((cohort.labels != decided).mean())


def test_evaluate_subgroups_equal_their_rows_and_gaps_their_difference(cohort: Cohort, found: Evaluation) -> None:
    values = found.to_dict()
    assert list(values["subgroups"]) == ["sex", "age", "view_position"]
    assert list(values["subgroups"]["age"]) == ["18 to 39", "40 to 59", "60 to 79"]
    women = (cohort.table["sex"] == "Female").to_numpy()
    groups = values["subgroups"]["sex"]
    assert (groups["F"]["num_images"], groups["F"]["num_patients"]) == (women.sum(), 80)
    macros = {}
    for name, inside in (("F", women), ("M", ~women)):
        aurocs = [roc_auc_score(cohort.labels[inside, f], cohort.mean[inside, f]) for f in range(3)]
        assert groups[name]["findings"]["Mass"]["auroc"]["value"] == pytest.approx(aurocs[0])
        macros[name] = np.mean(aurocs)
        assert groups[name]["macro_auroc"]["value"] == pytest.approx(macros[name])
    gap = values["gaps"]["sex"]["auroc"]
    assert gap["value"] == pytest.approx(abs(macros["F"] - macros["M"]))
    assert macros[gap["best"]] > macros[gap["worst"]]
    assert gap["low"] < gap["value"] < gap["high"]


def test_evaluate_by_names_groups_of_too_few_patients(cohort: Cohort) -> None:
    found = cohort.evaluate(by=["site"], num_draws=0)
    assert list(found.to_dict()["subgroups"]["site"]) == ["usual"]
    assert any("too few patients (below 20) to say anything of rare (3)" in note for note in found.notes)
    assert found.to_dict()["gaps"] == {}


def test_evaluate_by_numbers_compares_quartiles_in_their_order(cohort: Cohort) -> None:
    groups = cohort.evaluate(by=["dose"], num_draws=0).to_dict()["subgroups"]["dose"]
    assert list(groups) == ["0 to 14.5", "15 to 29.5", "30 to 44.5", "45 to 59.5"]
    assert {group["num_images"] for group in groups.values()} == {NUM // 4}


@pytest.mark.parametrize(
    ("column", "reason"),
    [("station", "it holds 60 different values that are not all numbers, and at most 20"), ("Mass", "holds labels")],
)
def test_evaluate_by_a_column_that_cannot_group_says_why(cohort: Cohort, column: str, reason: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"--by {column} cannot group the images: .*{reason}.*; choose from sex, age"
    ):
        cohort.evaluate(by=[column])


def test_evaluate_by_an_unknown_column_is_refused_with_those_there_are(cohort: Cohort) -> None:
    with pytest.raises(ConfigError, match=r"--by sx is no column .*did you mean 'sex'.*age"):
        cohort.evaluate(by=["sx"])


def test_evaluate_reliability_has_the_bins_of_the_calibration_error(cohort: Cohort, found: Evaluation) -> None:
    bins = found.to_dict()["curves"]["Mass"]["reliability"]
    assert [one["count"] for one in bins] == [NUM // 10] * 10
    error = sum(one["count"] * abs(one["predicted"] - one["observed"]) for one in bins) / NUM
    assert error == pytest.approx(found.metrics.loc["Mass", "calibration_error"])
    lowest = np.argsort(cohort.mean[:, 0])[: NUM // 10]
    assert bins[0]["observed"] == pytest.approx(cohort.labels[lowest, 0].mean())
    assert bins[0]["low"] <= bins[0]["observed"] <= bins[0]["high"]


def test_evaluate_writes_what_it_prints(found: Evaluation, tmp_path: Path) -> None:
    found.write(str(tmp_path))
    assert json.loads((tmp_path / "evaluation.json").read_text()) == json.loads(json.dumps(found.to_dict()))
    metrics = pd.read_parquet(tmp_path / "metrics.parquet").set_index(["finding", "measure"])
    assert len(metrics) == len(MEASURES) * (len(FINDINGS) + 2)
    row, interval = metrics.loc[("macro", "mcc")], found.measured.macro("mcc")
    assert row.tolist() == [interval.value, interval.low, interval.high]
    rules = pd.read_parquet(tmp_path / "rules.parquet")
    assert rules["rule"].unique().tolist() == ["one", "two", "three", "CTP", "PTC-lw", "PTC-mode"]
    subgroups = pd.read_parquet(tmp_path / "subgroups.parquet")
    assert set(subgroups["column"]) == {"sex", "age", "view_position"}
    lines = "\n".join(found.lines())
    assert interval.words() in lines
    assert "CTP minus the best member" in lines


def test_evaluate_patients_from_a_named_column_and_blank_ones_alone(cohort: Cohort, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    owner = ["" if number < 4 else f"q{number // 4}" for number in range(NUM)]
    cohort.table.drop(columns="patient_id").assign(owner=owner).to_csv(path, index=False)
    found = evaluate(cohort.output, str(path), patient_column="owner", num_draws=0)
    assert (found.to_dict()["num_patients"], found.to_dict()["clustered_by"]) == (59 + 4, "owner")
    assert "4 images without a patient count as one each." in found.notes
    with pytest.raises(ManifestError, match=r"no column 'ownr'.*did you mean 'owner'"):
        evaluate(cohort.output, str(path), patient_column="ownr", num_draws=0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [(["a.png,1,0", "a.png,0,0"], "has 1 row too many"), (["unknown.png,1,0"], "None of the images of")],
)
def test_evaluate_tables_that_do_not_fit_are_refused(
    scored: Scored, tmp_path: Path, rows: list[str], message: str
) -> None:
    table = labels_table(scored, tmp_path, rows)
    with pytest.raises(ManifestError, match=message):
        evaluate(scored.output, table, uri_column="image", image_root=str(scored.films))


def test_evaluate_blank_images_are_refused_with_their_lines(scored: Scored, tmp_path: Path) -> None:
    table = labels_table(scored, tmp_path, ["a.png,1,0", ",0,1", "b.png,0,1", " ,0,0"])
    with pytest.raises(ManifestError, match=r"cannot be used: the image is blank in lines 3, 5; name it, or remove"):
        evaluate(scored.output, table, uri_column="image", image_root=str(scored.films))


def test_evaluate_two_ensembles_or_files_of_other_thresholds_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("uri,Mass\n/a.png,1\n/b.png,0\n")
    row, other = (scored_row(f"/{name}.png", "1", FILMS["a.png"]) for name in "ab")
    write_scores(tmp_path / "two", "a.parquet", [row])
    changed = replace(CONTRACT, ensemble_digest="f" * 16)
    write_scores(tmp_path / "two", "b.parquet", [{**other, "ensemble_digest": "f" * 16}], changed)
    with pytest.raises(ConfigError, match="choose one with --ensemble-digest"):
        evaluate(str(tmp_path / "two"), str(table))
    assert evaluate(str(tmp_path / "two"), str(table), ensemble_digest="f" * 16, num_draws=0).truth.index == ["/b.png"]
    write_scores(tmp_path / "edited", "a.parquet", [row])
    write_scores(tmp_path / "edited", "b.parquet", [other], replace(CONTRACT, thresholds=(0.5, 0.5, 0.5)))
    with pytest.raises(ConfigError, match="has other thresholds"):
        evaluate(str(tmp_path / "edited"), str(table))


def test_evaluate_only_faulted_rows_for_the_labels_is_refused(tmp_path: Path) -> None:
    write_scores(tmp_path, "a.parquet", [faulted_row("/a.png", "corrupt")])
    (tmp_path / "labels.csv").write_text("uri,Mass\n/a.png,1\n")
    with pytest.raises(ManifestError, match="None of the images of"):
        evaluate(str(tmp_path), str(tmp_path / "labels.csv"))
