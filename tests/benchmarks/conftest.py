"""The benchmarks as modules: they lie in no package, and import each other as scripts of one folder do."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def score() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("score")


@pytest.fixture(scope="module")
def scale(score: ModuleType) -> ModuleType:
    return importlib.import_module("scale")
