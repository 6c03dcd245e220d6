"""An invented score folder: six films, three faulted objects, an old version of a row, a film that is gone."""

import shutil
from collections.abc import Iterator
from datetime import timedelta

import pytest

from cxr_ray import storage
from tests.evaluation.chromium import Chromium
from tests.evaluation.invented import (
    FAULTS,
    FILMS,
    STARTED,
    Scored,
    faulted_row,
    film,
    scored_row,
    write_run,
    write_scores,
)


@pytest.fixture(scope="session")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    folder = tmp_path_factory.mktemp("scored")
    films, output = folder / "films", folder / "out"
    films.mkdir()
    for seed, name in enumerate(FILMS):
        film(seed).save(films / name)
    versions = {name: next(iter(storage.list_objects(str(films / name)))).version for name in FILMS}
    (films / "gone.png").unlink()
    old = scored_row(str(films / "a.png"), "old", ((0.2, 0.9, 0.9), (0, 3, 3), (0.1, 0.1, 0.1)))
    old |= {"scored_at": STARTED - timedelta(days=1), "run_id": "run-1"}
    faulted = [faulted_row(*fault) for fault in FAULTS]
    write_scores(output, "first.parquet", [old, *faulted])
    write_scores(
        output,
        "second.parquet",
        [scored_row(str(films / name), versions[name], numbers) for name, numbers in FILMS.items()],
    )
    write_run(output, "run-1", started_at="2026-03-13T02:00:00Z")
    write_run(output, "run-2", started_at="2026-03-14T02:00:00Z")
    write_run(output, "run-of-another-ensemble", started_at="2026-03-15T02:00:00Z", digest="f" * 16)
    (output / "runs" / "torn.json").write_text('{"run_id": "to')
    return Scored(str(output), films)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    chromium = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()
