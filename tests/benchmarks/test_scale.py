"""What the engine's benchmark says of memory and of costs, from runs that are written down here."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

MIB = 2**20


def written(folder: Path, sizes: dict[float, int]) -> list[Path]:
    """Score files of so many rows, by the time at which each was written."""
    files = []
    for moment, rows in sizes.items():
        files.append(folder / f"{moment}.parquet")
        pq.write_table(pa.table({"row": range(rows)}), files[-1])
        os.utime(files[-1], (moment, moment))
    return files[::-1]


def test_memory_of_a_run_is_looked_at_when_a_thousand_images_are_written_and_from_then_on(
    score: ModuleType, scale: ModuleType, tmp_path: Path
):
    watch = score.Watch()
    held = {0.0: 0, 9.0: 700, 19.0: 500, 21.0: 510, 29.0: 650, 39.0: 520, 45.0: 90}
    watch.samples = [score.Sample(moment, 0.0, pss * MIB) for moment, pss in held.items()]
    found = scale.memory_of(watch, written(tmp_path, {10.0: 4, 15.0: 990, 20.0: 7, 30.0: 512, 40.0: 600}))
    assert (found.early, found.later, found.early_peak, found.peak) == (500.0, 650.0, 700.0, 700.0)


def test_tables_state_the_cost_beyond_the_bare_loop_and_the_growth_of_memory(scale: ModuleType):
    def run(cpu: float, early: float, late: float) -> object:
        return scale.Measured(5.0, 9.0, cpu, 900.0, scale.Memory(early, late, 2 * early, 2 * late))

    few, many, long = (
        scale.Case("local", images, "all", memory=memory)
        for images, memory in ((100, False), (1100, False), (20_000, True))
    )
    found = {
        few: [run(12.0, 1, 1), run(14.0, 1, 1)],
        many: [run(3.0, 1, 1), run(5.0, 1, 1)],
        long: [run(1.0, 1000, 1050), run(1.0, 1000, 1150)],
    }
    lines = scale.tables(found, {"all": [1.0, 2.0]})
    assert "| local | all | 1,100 | 5.0 | 9.0 | 3.00 / 4.00 / 5.00 | 2.50 | 900 | 2 / 2 / 2 |" in lines
    # (3.0 * 1100 - 12.0 * 100) / 1000 - 1.0 and (5.0 * 1100 - 14.0 * 100) / 1000 - 2.0
    assert "local, heat maps all: 1.10 / 1.60 / 2.10 ms of CPU per further image beyond it." in lines
    assert lines[-1].startswith(
        "| local | all | 20,000 | 1000 / 1000 / 1000 | 1050 / 1100 / 1150 | 5.0 / 10.0 / 15.0 |"
    )


@pytest.fixture
def _threads() -> Iterator[None]:
    """The bare loop takes one thread, and is usually a process of its own."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("maps", [False, True])
def test_bare_loop_takes_cpu_time_of_every_image_beyond_the_first_batch(
    scale: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maps: bool
):
    monkeypatch.setattr(scale, "BATCH", 4)
    scale.bundle_of(tmp_path / "bundle", [scale.BACKBONE], size=32)
    films = scale.write_films(tmp_path / "films", 10)
    assert 0.0 < scale.bare(films, tmp_path / "bundle", maps=maps) < 1000.0
