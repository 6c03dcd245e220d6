"""Orders of an epoch: what is shown, how often, to whom."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cxr_ray.training.sampling import class_aware, dealt, ordered, shuffled
from cxr_ray.training.workers import Worker

NAN = math.nan


def tables(max_images: int = 40):
    """Labels (N, F) of 1, 0 and NaN."""
    shape = st.tuples(st.integers(1, max_images), st.integers(1, 5))
    return hnp.arrays(np.float32, shape, elements=st.sampled_from([0.0, 1.0, NAN]))


def rare_and_common() -> np.ndarray:
    """300 images: A in 3, B in 60, C in none and not stated in 10, 237 without a finding."""
    labels = np.zeros((300, 3), np.float32)
    labels[:3, 0] = 1
    labels[3:63, 1] = 1
    labels[290:, 2] = NAN
    return labels


def test_ordered_shuffle_dealt_keeps_the_batches_of_earlier_releases():
    order = ordered(np.zeros((10, 1), np.float32), sampler="shuffle", seed=3, epoch=2)
    batches = [batch.tolist() for batch in dealt(order, batch_size=4, worker=Worker(1, 2))]
    permutation = torch.randperm(10, generator=torch.Generator().manual_seed(300_011)).tolist()
    assert batches == [permutation[1:4:2], permutation[5:8:2]]


def test_class_aware_classes_come_in_turn():
    labels = rare_and_common()
    order = class_aware(labels, seed=0, epoch=0).numpy()
    shown = np.where(order < 3, "A", np.where(order < 63, "B", "none"))
    assert len(order) == 300
    for start in range(0, 300, 3):
        assert sorted(shown[start : start + 3]) == ["A", "B", "none"]
    # In a new sequence each time, not always the same one.
    assert len({tuple(shown[start : start + 3]) for start in range(0, 300, 3)}) == 6


def test_class_aware_images_of_a_class_are_used_up_before_one_comes_again():
    order = class_aware(rare_and_common(), seed=0, epoch=0).tolist()
    rare, common = [index for index in order if index < 3], [index for index in order if 3 <= index < 63]
    others = [index for index in order if index >= 63]
    assert [sorted(rare[start : start + 3]) for start in range(0, 99, 3)] == [[0, 1, 2]] * 33
    assert sorted(common[:60]) == list(range(3, 63))
    assert len(set(common[60:])) == 40
    assert len(set(others)) == len(others) == 100


def test_class_aware_image_with_two_findings_is_shown_for_both():
    labels = np.array([[1, 1], [1, 0], [0, 1]], np.float32)
    seen = Counter(index for epoch in range(2000) for index in class_aware(labels, seed=1, epoch=epoch).tolist())
    # Turns of a finding give each of its two images half the time: image 0 half of all, the others a quarter each.
    assert seen[0] / 6000 == pytest.approx(0.5, abs=0.02)
    assert seen[1] / 6000 == pytest.approx(0.25, abs=0.02)


def test_class_aware_label_not_stated_is_no_positive():
    labels = np.array([[NAN], [0], [1], [NAN]], np.float32)
    order = class_aware(labels, seed=0, epoch=0).tolist()
    assert order.count(2) == 2
    assert len({index for index in order if index != 2}) == 2


@pytest.mark.parametrize("sampler", ["shuffle", "class_aware"])
def test_ordered_repeats_by_seed_and_differs_by_epoch(sampler):
    labels = rare_and_common()
    first = ordered(labels, sampler=sampler, seed=4, epoch=1)
    assert torch.equal(first, ordered(labels.copy(), sampler=sampler, seed=4, epoch=1))
    assert not torch.equal(first, ordered(labels, sampler=sampler, seed=4, epoch=2))
    assert not torch.equal(first, ordered(labels, sampler=sampler, seed=5, epoch=1))


def test_class_aware_no_images_is_an_empty_order():
    assert class_aware(np.empty((0, 3), np.float32), seed=0, epoch=0).tolist() == []


@given(labels=tables(), seed=st.integers(0, 2**31), epoch=st.integers(0, 1000))
def test_class_aware_any_table_gives_every_class_its_equal_share(labels, seed, epoch):
    before = labels.copy()
    order = class_aware(labels, seed=seed, epoch=epoch)
    assert order.shape == (len(labels),)
    assert order.dtype == torch.int64
    assert ((order >= 0) & (order < len(labels))).all()
    np.testing.assert_array_equal(labels, before)
    positive = labels == 1
    classes = [column for column in [*positive.T, ~positive.any(axis=1)] if column.any()]
    turns = len(labels) // len(classes)
    shown = order.numpy()
    assert all(column[shown].sum() >= turns for column in classes)


@given(
    num_images=st.integers(1, 60),
    batch_size=st.integers(2, 20),
    world=st.integers(1, 5),
    class_of=st.integers(2, 7),
    sampler=st.sampled_from(["shuffle", "class_aware"]),
)
def test_dealt_any_world_deals_each_place_once_and_steps_equally_often(
    num_images, batch_size, world, class_of, sampler
):
    num_images = max(num_images, world)
    labels = (np.arange(num_images) % class_of == 0).astype(np.float32)[:, None]
    order = ordered(labels, sampler=sampler, seed=1, epoch=1)
    workers = [list(dealt(order, batch_size=batch_size, worker=Worker(rank, world))) for rank in range(world)]
    steps = {len(batches) for batches in workers}
    assert len(steps) == 1
    # Put back together rank by rank, the shares of the steps are the order itself, up to the batch that is not full.
    rejoined = []
    for shares in zip(*workers, strict=True):
        whole = torch.empty(sum(len(share) for share in shares), dtype=torch.int64)
        for rank, share in enumerate(shares):
            whole[rank::world] = share
        rejoined.append(whole)
    found = torch.cat(rejoined)
    assert torch.equal(found, order[: len(found)])
    # Whole batches only, of as many images for each worker, unless there is less than one.
    step = max(1, batch_size // world) * world
    assert len(found) == (num_images // step * step or num_images)
    if sampler == "shuffle":
        assert len(set(found.tolist())) == len(found)


def test_dealt_both_samplers_step_equally_often():
    labels = rare_and_common()
    orders = [shuffled(300, seed=0, epoch=0), class_aware(labels, seed=0, epoch=0)]
    assert [len(list(dealt(order, batch_size=32, worker=Worker()))) for order in orders] == [9, 9]
