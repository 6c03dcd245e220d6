"""Drift between two scored sets: what moved is named, what did not is not, rows are chosen, the rest is refused."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import ks_2samp
from typer.testing import CliRunner, Result

from cxr_ray.cli import app
from cxr_ray.config import DriftConfig
from cxr_ray.errors import ConfigError
from cxr_ray.evaluation.drift.comparing import compare_outputs
from cxr_ray.evaluation.drift.distributions import category_shift, histogram, own_bins, psi
from cxr_ray.evaluation.drift.sides import Choice, map_agreements, read_side
from cxr_ray.scoring import table
from cxr_ray.scoring.table import Contract, encode, read_scores, schema
from tests.evaluation.invented import CONTRACT, FINDINGS, faulted_row, reported, scored_row

CONFIG = DriftConfig(min_rows=100)
NIGHTS = {"20261101T020000000": 1, "20261102T020000000": 2, "20261103T020000000": 3}


def invent(
    num_rows: int, seed: int, *, power: float = 1.0, only: str | None = None, faulted: int = 0, **changes: object
) -> list[dict[str, object]]:
    """Rows of two vendors and views; `power` moves the first finding, of the vendor `only` if there is one."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(num_rows):
        vendor, view = random.choice(["GE", "Siemens"]), random.choice(["PA", "AP"])
        probabilities = random.random(len(FINDINGS))
        if only in (None, vendor):
            probabilities[0] **= power
        votes = tuple(int(4 * value) for value in probabilities)
        spread = tuple(float(value) for value in random.random(len(FINDINGS)) / 10)
        row = scored_row(f"/{seed}/{number}.dcm", "1", (tuple(probabilities), votes, spread))
        maps = [reported(name, 0.5, 1, map_agreement=float(random.random())) for name in FINDINGS[:2]]
        fields = {"manufacturer": vendor, "view_position": view, "pixel_spacing_mm": [0.2, 0.2], "findings": maps}
        found.append(row | fields | changes)
    return found + [faulted_row(f"/{seed}/fault-{number}.dcm", "corrupt") for number in range(faulted)]


def write(
    output: Path,
    rows: list[dict[str, object]],
    *,
    run: str = "20261101T020000000",
    contract: Contract = CONTRACT,
    without: tuple[str, ...] = (),
) -> str:
    """The score file of one run, as scoring names it; `without` are columns that an older version did not write."""
    target = Path(table.file_uri(str(output), run, contract.ensemble_digest))
    target.parent.mkdir(parents=True)
    written = pa.Table.from_pylist(rows, schema=schema(contract)).drop_columns(list(without))
    target.write_bytes(encode(written))
    return str(output)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("before") / "out", invent(900, 1, faulted=9))


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three nights in one output; the last one moved."""
    output = tmp_path_factory.mktemp("nights") / "out"
    for run, seed in NIGHTS.items():
        write(output, invent(400, seed, power=4.0 if seed == 3 else 1.0), run=run)
    return str(output)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["drift", *(str(argument) for argument in arguments)])


def test_compare_outputs_of_one_distribution_no_drift(before, tmp_path):
    found = compare_outputs(before, write(tmp_path / "out", invent(700, 2, faulted=7)), config=CONFIG)
    assert found.drifted == {}
    assert found.verdict.startswith("No drift in ")
    per_group = 1 + 3 * len(FINDINGS) + 2  # faults; probability, votes, spread; maps are stored of two findings
    assert [len(found.overall), len(found.header)] == [per_group, 1 + 8 + 3]
    assert set(found.groups["manufacturer"]) == {"GE", "Siemens", "not stated"}
    assert len(found.groups["manufacturer"]["GE"].shifts) == per_group
    assert "the reference has 0" in (found.groups["view_position"]["not stated"].missing or "")
    assert (found.to_dict()["reference"]["rows"], found.to_dict()["current"]["scored"]) == (909, 700)


def test_compare_outputs_values_equal_references(before, tmp_path):
    after = write(tmp_path / "out", invent(700, 2, power=2.0))
    found = compare_outputs(before, after, config=CONFIG)
    moved = next(shift for shift in found.overall if shift.name == "probability of Mass")
    (old, _), (new, _) = (read_scores(output, wanted=["status", "probability_Mass"]) for output in (before, after))
    old, new = (side["probability_Mass"].drop_null().to_numpy() for side in (old, new))
    assert moved.ks == pytest.approx(ks_2samp(old, new).statistic)
    edges = np.quantile(old, np.linspace(0.1, 0.9, 9))
    shares = [np.histogram(side, [0, *edges, 1])[0] / len(side) for side in (old, new)]
    assert moved.psi == pytest.approx(sum((n - o) * np.log(n / o) for o, n in zip(*shares, strict=True)), rel=1e-3)
    assert (moved.reference, moved.current) == pytest.approx((old.mean(), new.mean()))


def test_compare_outputs_shift_of_one_vendor_is_named_there(before, tmp_path):
    found = compare_outputs(
        before, write(tmp_path / "out", invent(900, 2, power=3.0, only="Siemens")), config=CONFIG
    ).drifted
    assert "probability of Mass (manufacturer Siemens)" in found
    assert not any("GE" in name or "Pleural" in name for name in found)


@pytest.mark.parametrize(
    ("changes", "name", "category"),
    [
        ({"photometric_interpretation": "MONOCHROME1"}, "photometric_interpretation", "MONOCHROME1"),
        ({"gate": "image"}, "gate", "image"),
        ({"rows": 3000}, "rows", None),
        ({"pixel_spacing_mm": [0.143, 0.143]}, "pixel_spacing_mm", None),
    ],
)
def test_compare_outputs_header_that_changed_is_named(before, tmp_path, changes, name, category):
    found = compare_outputs(before, write(tmp_path / "out", invent(500, 2, **changes)), config=CONFIG).drifted
    assert set(found) == {name}
    assert found[name].category in (category, "not stated")


def test_compare_outputs_faults_are_named(before, tmp_path):
    found = compare_outputs(before, write(tmp_path / "out", invent(500, 2, faulted=300)), config=CONFIG).drifted
    assert {"faults", "fault"} <= set(found)
    assert found["fault"].category in ("corrupt", "none")
    assert found["faults"].current == pytest.approx(300 / 800)


def test_own_bins_value_that_all_have_is_told_from_its_neighbours():
    edges = own_bins(np.full(200, 2500), 10)
    assert psi(histogram(np.full(200, 2500), edges), histogram(np.full(200, 3000), edges)) > 5
    assert psi(histogram(np.full(200, 2500), edges), histogram(np.full(200, 2499), edges)) > 5
    values = np.random.default_rng(0).random(1000)
    assert histogram(values, own_bins(values, 5)).tolist() == [200] * 5


def test_category_shift_is_the_sum_over_categories():
    found = category_shift("view", {"PA": 80, "AP": 20}, {"AP": 30, "PA": 30, "LL": 60})
    shares = ((0.2, 0.25), (0.005, 0.5), (0.8, 0.25))  # a category that the reference lacks counts half a row
    assert found.psi == pytest.approx(sum((c - r) * np.log(c / r) for r, c in shares))
    assert (found.category, found.reference, found.current) == ("PA", 0.8, 0.25)


def test_scores_without_the_manufacturer_column_are_read(before, tmp_path):
    older = write(tmp_path / "out", invent(500, 2), without=("manufacturer",))
    rows, _ = read_scores(older, wanted=["uri", "manufacturer"])
    assert rows["manufacturer"].null_count == rows.num_rows == 500
    found = compare_outputs(before, older, config=CONFIG)
    assert any("A side states no manufacturer" in note for note in found.notes)
    assert found.groups["manufacturer"]["GE"].missing is not None
    assert set(found.drifted) == {"manufacturer"}


def test_read_side_of_many_rows_takes_every_kth_with_its_maps(nights):
    files = sorted(table.score_files(nights))
    thin, whole = (read_side(nights, files, CONTRACT, max_rows=rows) for rows in (250, 5000))
    assert (thin.num_rows, whole.num_rows, thin.rows.num_rows) == (1200, 1200, 240)
    assert thin.rows.equals(whole.rows.take(pa.array(range(0, 1200, 5))).combine_chunks())
    stored, _ = read_scores(nights, wanted=["uri", "probability_Mass", "findings"])
    expected = {
        probability: next(item["map_agreement"] for item in said if item["finding"] == "Mass")
        for probability, said in zip(
            stored["probability_Mass"].to_pylist(), stored["findings"].to_pylist(), strict=True
        )
    }
    pairs = zip(thin.rows["probability_Mass"].to_pylist(), thin.rows["map_agreement_Mass"].to_pylist(), strict=True)
    assert all(expected[probability] == agreement for probability, agreement in pairs)
    last = map_agreements(files, CONTRACT, step=1)["map_agreement_Nodule___other__small_"]
    assert last.null_count == 1200


@pytest.mark.parametrize(
    ("choice", "rows", "drifts"),
    [
        (Choice(current_runs=("20261103T020000000",)), (800, 400), True),
        (Choice(reference_runs=("20261101T020000000",), current_runs=("20261102T020000000",)), (400, 400), False),
        (Choice(reference_runs=("20261103T020000000",)), (400, 800), True),
    ],
)
def test_compare_outputs_runs_of_one_output(nights, choice, rows, drifts):
    found = compare_outputs(nights, nights, config=CONFIG, choice=choice)
    assert (found.reference.num_rows, found.current.num_rows) == rows
    assert ("probability of Mass" in found.drifted) is drifts


@pytest.mark.parametrize("written", ["relative", "dotted", "trailing", "link", "linked files"])
def test_drift_of_an_output_against_itself_is_noticed_however_it_is_written(nights, written, tmp_path, monkeypatch):
    folder = Path(nights)
    monkeypatch.chdir(folder.parent)
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "scores").symlink_to(folder / "scores")
    other = {
        "relative": folder.name,
        "dotted": f"{folder}/../{folder.name}",
        "trailing": f"{folder}/",
        "link": str(tmp_path / "link"),
        "linked files": str(tmp_path / "copy"),
    }[written]
    for one, two in ((nights, other), (other, nights)):
        with pytest.raises(ConfigError, match="Both sides hold the same rows of"):
            compare_outputs(one, two, config=CONFIG)
    if written != "linked files":
        last = Choice(current_runs=("20261103T020000000",))
        found = compare_outputs(nights, other, config=CONFIG, choice=last)
        assert (found.reference.num_rows, found.current.num_rows) == (800, 400)


def test_compare_outputs_empty_pixel_spacing_is_as_none(before, tmp_path):
    rows = invent(500, 2)
    for row in rows[:200]:
        row["pixel_spacing_mm"] = []
    after = write(tmp_path / "out", rows)
    files = list(table.score_files(after))
    side = read_side(after, files, CONTRACT, max_rows=5000).rows["pixel_spacing_mm"]
    assert side.null_count == 200
    assert side.drop_null().unique().to_pylist() == [pytest.approx(0.2)]
    compare_outputs(before, after, config=CONFIG)


def test_drift_command_days_of_one_output_json_file_and_exit_code(nights, tmp_path):
    target = tmp_path / "drift.json"
    found = call(nights, "--reference-before", "2026-11-03", "--min-rows", 100, "-o", target)
    assert found.exit_code == 0, found.output
    assert "Drift in " in found.stdout.splitlines()[-1]
    assert "reference: 800 rows of 2 runs" in found.stdout
    written = json.loads(target.read_text())
    assert {"reference", "current", "max_psi", "overall", "groups", "header", "drifted", "verdict", "notes"} == set(
        written
    )
    assert "probability of Mass" in written["drifted"]
    printed = call(nights, "--reference-before", "2026-11-03", "--min-rows", 100, "--json", "--fail")
    assert (printed.exit_code, json.loads(printed.stdout)) == (4, written)
    calm = call(nights, "--reference-run", "20261101T020000000", "--current-run", "20261102T020000000", "--fail")
    assert (calm.exit_code, calm.stdout.splitlines()[-1][:9]) == (0, "No drift ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Both sides hold the same rows of"),
        (["--current-run", "20270101T0"], "No score file is of the run '20270101T0'; the last runs here are 2026"),
        (["--reference-before", "2026-01-01"], "is left for the reference side; choose other runs or days."),
        (
            ["--reference-before", "2026-11-03", "--min-rows", "500"],
            "the current side has 400 scored rows, it takes 500",
        ),
        (["--current-run", "20261103T020000000", "--by", "sex"], "Rows cannot be grouped by 'sex'; choose from view"),
    ],
)
def test_drift_command_that_cannot_be_one_sentence(nights, arguments, words):
    found = call(nights, *arguments)
    assert found.exit_code == 2
    assert words in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_drift_of_two_ensembles_or_two_preprocessings_is_refused(before, tmp_path):
    other = Contract(**{**{name: getattr(CONTRACT, name) for name in CONTRACT.__slots__}, "ensemble_digest": "f" * 16})
    second = write(tmp_path / "a", invent(200, 2, ensemble_digest="f" * 16), contract=other)
    with pytest.raises(ConfigError, match="scores of two ensembles differ without any drift"):
        compare_outputs(before, second, config=CONFIG)
    third = write(tmp_path / "b", invent(200, 2, preprocess_digest="q" * 16))
    with pytest.raises(ConfigError, match="went through 2 ways of preprocessing"):
        compare_outputs(before, third, config=CONFIG)
    with pytest.raises(ConfigError, match="holds no scores"):
        compare_outputs(before, str(tmp_path / "absent"), config=CONFIG)
