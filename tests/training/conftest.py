"""What the tests of the training loop share: the squares, and one thread, with which tiny networks are fastest."""

from collections.abc import Iterator

import pytest
import torch

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
