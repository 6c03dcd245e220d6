"""The CSV file against the rows it is made of, and what a spreadsheet must not run."""

import csv
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from cxr_ray.cli import app
from cxr_ray.errors import ConfigError
from cxr_ray.evaluation.flat import export_csv
from tests.evaluation.invented import FAULTS, FILMS, Scored, faulted_row, scored_row, write_scores


def test_csv_has_the_current_row_of_every_image(scored: Scored, tmp_path: Path):
    flat = export_csv(scored.output, str(tmp_path / "flat.csv"))
    table = pd.read_csv(tmp_path / "flat.csv").set_index("uri")
    assert flat.num_rows == len(table) == len(FILMS) + len(FAULTS)
    assert table.index.is_unique
    for name, (probabilities, votes, spread) in FILMS.items():
        row = table.loc[scored.uri(name)]
        found = [row[f"{kind}_Nodule___other__small_"] for kind in ("probability", "votes", "spread")]
        assert found == [probabilities[2], votes[2], spread[2]]
        assert row["status"] == "scored"
    assert table.loc[FAULTS[1][0], "fault_detail"] == FAULTS[1][2]
    a = table.loc[scored.uri("a.png")]
    assert (a["peak_row_Mass"], a["peak_column_Mass"]) == (67.5, 22.5)
    assert [a[f"box_{edge}_Mass"] for edge in ("top", "left", "bottom", "right")] == [60, 15, 75, 30]
    assert a[[f"{place}_Pleural_effusion" for place in ("peak_row", "box_top")]].isna().all()
    assert not [name for name in table.columns if "heatmap" in name]


def test_numbers_are_written_as_short_as_they_were_given(scored: Scored, tmp_path: Path):
    export_csv(scored.output, str(tmp_path / "flat.csv"))
    with (tmp_path / "flat.csv").open(newline="") as file:
        rows = {row["uri"]: row for row in csv.DictReader(file)}
    assert rows[scored.uri("b.png")]["probability_Mass"] == "0.7"  # as float64 the stored number is 0.699999988


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+1", "-1+1", "@SUM(1)", "\t=1", "\r=1"])
def test_text_that_begins_like_a_formula_is_defused(tmp_path: Path, text: str):
    write_scores(tmp_path, "a.parquet", [faulted_row(text, "corrupt", text)])
    export_csv(str(tmp_path), str(tmp_path / "flat.csv"))
    with (tmp_path / "flat.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert row["uri"] == row["fault_detail"] == f"'{text}"


def test_csv_that_cannot_be_written_is_one_sentence_and_leaves_nothing(scored: Scored, tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be written"):
        export_csv(scored.output, str(tmp_path / "absent" / "flat.csv"))
    with pytest.raises(ConfigError, match="local file"):
        export_csv(scored.output, "s3://bucket/flat.csv")
    assert list(tmp_path.iterdir()) == []


def test_command_writes_the_file_and_says_so(scored: Scored, tmp_path: Path):
    result = CliRunner().invoke(app, ["export", scored.output, "--csv", str(tmp_path / "flat.csv")])
    assert result.exit_code == 0, result.output
    assert f"flat.csv: {len(FILMS) + len(FAULTS)} rows" in result.stdout


def test_several_score_files_are_read_to_their_end(tmp_path: Path):
    numbers = ((0.1, 0.1, 0.1), (0, 0, 0), (0.0, 0.0, 0.0))
    for part in range(3):
        write_scores(tmp_path, f"{part}.parquet", [scored_row(f"/{part}/{n}", "1", numbers) for n in range(7)])
    assert export_csv(str(tmp_path), str(tmp_path / "flat.csv")).num_rows == 21
