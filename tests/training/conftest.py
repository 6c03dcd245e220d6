"""What the tests of training share: squares, an MLflow, and one thread, with which tiny networks are fastest."""

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from tests.training.fake_mlflow import FakeServer
from tests.training.squares import write_squares


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> str:
    return write_squares(str(tmp_path_factory.mktemp("squares")))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def server(monkeypatch) -> FakeServer:
    fake, modules = (
        FakeServer(),
        {name: ModuleType(name) for name in ("mlflow", "mlflow.exceptions", "mlflow.tracking")},
    )
    modules["mlflow.exceptions"].MlflowException = type("MlflowException", (Exception,), {})
    modules["mlflow.tracking"].MlflowClient = lambda tracking_uri: fake
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return fake
