"""What goes into an update: each image once, the same views and mixtures whoever reads them."""

import math
import time

import numpy as np
import pytest
import torch

from cxr_ray.config import AugmentConfig
from cxr_ray.training.batches import Batch, Order, mix, read_ahead, read_batch, views
from cxr_ray.training.cache import open_part
from cxr_ray.training.workers import Worker

ORDER = Order(2, 5, (np.array([3, 0, 7, 7, 12, 30, 1]), np.array([9, 8, 31])))


def shares(shards: str, world: int, *, step: int = 0, mixup: float = 0.0) -> list[Batch]:
    train = open_part(shards, "train")
    return [read_batch(train, ORDER, step, mixup=mixup, worker=Worker(rank, world)) for rank in range(world)]


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_read_batch_three_workers_have_what_one_has(shards, mixup):
    (whole,), parts = shares(shards, 1, mixup=mixup), shares(shards, 3, mixup=mixup)
    assert [len(part.labels) for part in parts] == [3, 2, 2]
    expected = views(whole, AugmentConfig(), "cpu")
    for rank, part in enumerate(parts):
        torch.testing.assert_close(views(part, AugmentConfig(), "cpu"), expected[rank::3], rtol=0.0, atol=1e-6)
        assert torch.equal(part.labels.nan_to_num(-1), whole.labels[rank::3].nan_to_num(-1))
        assert (part.num_stated, part.counts.tolist()) == (whole.num_stated, whole.counts.tolist())
    train = open_part(shards, "train")
    uris = [part.uris(train) for part in parts]
    assert [uris[number % 3][number // 3] for number in range(7)] == whole.uris(train)


def test_read_batch_image_shown_twice_is_seen_in_two_ways(shards):
    (whole,) = shares(shards, 1)
    seen = views(whole, AugmentConfig(), "cpu")
    assert torch.equal(whole.images[2], whole.images[3])
    assert not torch.equal(seen[2], seen[3])


def test_read_batch_mixture_has_the_labels_of_both_and_is_stated_where_both_are(shards):
    train = open_part(shards, "train")
    (whole,) = shares(shards, 1, mixup=0.4)
    assert whole.uris(train)[0] == (train.uris[3], train.uris[1])
    ours, theirs = train.labels[ORDER.batches[0]], train.labels[ORDER.batches[0][::-1]]
    share = whole.shares.numpy()[:, None]
    np.testing.assert_allclose(whole.labels.numpy(), share * ours + (1 - share) * theirs, rtol=1e-6)
    assert whole.num_stated == int((~np.isnan(ours + theirs)).sum())
    assert 0 <= share.min() < share.max() <= 1


def test_mix_share_of_one_is_the_image_itself_and_nan_stays():
    ours, theirs = torch.tensor([[1.0, 0.0], [1.0, math.nan]]), torch.tensor([[0.0, math.nan], [0.0, 1.0]])
    found = mix(ours, theirs, torch.tensor([1.0, 0.25]))
    torch.testing.assert_close(found, torch.tensor([[1.0, math.nan], [0.25, math.nan]]), equal_nan=True)


def test_order_dropout_seed_differs_by_step_and_worker():
    seeds = {ORDER.dropout_seed(step, Worker(rank, 4)) for step in range(20) for rank in range(4)}
    assert len(seeds) == 80


def test_order_positions_count_on_over_the_batches():
    assert ORDER.positions(0).tolist() == list(range(7))
    assert ORDER.positions(1).tolist() == [7, 8, 9]


def test_order_positions_of_a_late_step_need_no_count_of_all_before():
    order = Order(0, 0, (np.arange(3),) * 1_000_000)
    started = time.monotonic()
    found = [order.positions(step).tolist() for step in range(999_000, 1_000_000)]
    assert found[-1] == [2_999_997, 2_999_998, 2_999_999]
    assert time.monotonic() - started < 2.0, "a count over all batches takes 60 ms here, a thousand times"


def test_read_ahead_keeps_the_order_and_passes_errors_on(shards):
    train = open_part(shards, "train")

    def read(step: int) -> Batch:
        return read_batch(train, ORDER, step, mixup=0.0, worker=Worker())

    assert [batch.step for batch in read_ahead(read, range(2))] == [0, 1]
    assert list(read_ahead(read, range(0))) == []
    with pytest.raises(IndexError):
        list(read_ahead(read, range(3)))
