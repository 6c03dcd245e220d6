"""The plain torch loop: order, schedule, metrics, and a resumed run that ends where an uninterrupted one ends."""

import math
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cxr_ray.config import AugmentConfig, MemberConfig, OptimizeConfig
from cxr_ray.models.member import create
from cxr_ray.training.cache import ModelInputs, open_part, shard_schema, write_shard
from cxr_ray.training.loop import Worker, epoch_order, fit, label_weights, macro_auroc, schedule

FINDINGS = ("A", "B", "C")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    """Three shards of 40 bright and dark squares at 32 px: finding A is the brightness, B is noise, C not stated."""
    folder, random = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    rows = []
    for number in range(40):
        bright = number % 2
        pixels = np.clip(random.normal(90 + 70 * bright, 20, (32, 32)), 0, 255).astype(np.uint8)
        labels = [float(bright), float(random.random() < 0.5), math.nan]
        part = "validation" if number % 5 == 0 else "train"
        rows.append({"uri": f"/{number:03d}", "part": part, "labels": labels, "pixels": pixels.tobytes()})
    for start in (0, 13, 26):
        table = pa.Table.from_pylist(rows[start : start + 13], schema=shard_schema(size=32, num_findings=3))
        write_shard(str(folder / f"{start}.arrow"), table)
    table = pa.Table.from_pylist(rows[39:], schema=shard_schema(size=32, num_findings=3))
    write_shard(str(folder / "39.arrow"), table)
    return str(folder)


def test_open_part_shards_come_back_in_order_with_their_pixels(shards):
    train, validation = open_part(shards, "train"), open_part(shards, "validation")
    assert len(train) == 32
    assert validation.uris == tuple(f"/{number:03d}" for number in range(0, 40, 5))
    assert list(train.uris) == sorted(train.uris)
    pixels = train.pixels([3, 0, 31])
    assert pixels.shape == (3, 1, 32, 32)
    bright = train.labels[[3, 0, 31], 0]
    assert [image.mean() > 125 for image in pixels] == [label == 1 for label in bright]
    assert np.isnan(train.labels[:, 2]).all()


def test_epoch_order_two_workers_share_every_image_once():
    workers = [Worker(rank, 2) for rank in range(2)]
    dealt = [[batch.tolist() for batch in epoch_order(25, seed=3, epoch=1, batch_size=8, worker=w)] for w in workers]
    assert [len(batches) for batches in dealt] == [3, 3]
    assert all(len(batch) == 4 for batches in dealt for batch in batches)
    seen = [index for batches in dealt for batch in batches for index in batch]
    assert len(set(seen)) == 24


def test_epoch_order_differs_by_epoch_and_repeats_by_seed():
    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat(list(epoch_order(16, seed=seed, epoch=epoch, batch_size=4, worker=Worker()))).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert sorted(order(0, 1)) == list(range(16))


def test_epoch_order_fewer_images_than_a_batch_are_one_batch():
    assert [len(batch) for batch in epoch_order(5, seed=0, epoch=0, batch_size=8, worker=Worker())] == [5]


def test_schedule_rises_then_falls_to_zero():
    factors = [schedule(step, num_steps=100, warmup=0.1) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0)


def test_macro_auroc_only_defined_findings_count():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (50, 3)).astype(np.float32)
    labels[:, 1] = 0
    labels[::7, 2] = np.nan
    scores = random.random((50, 3)).astype(np.float32)
    stated = ~np.isnan(labels[:, 2])
    expected = [roc_auc_score(labels[:, 0], scores[:, 0]), roc_auc_score(labels[stated, 2], scores[stated, 2])]
    assert macro_auroc(labels, scores) == pytest.approx(np.mean(expected))
    assert math.isnan(macro_auroc(labels[:, 1:2], scores[:, 1:2]))


def test_label_weights_come_from_stated_labels(shards):
    train = open_part(shards, "train")
    found = label_weights(train, OptimizeConfig(weighting="inverse"))
    positives = int(train.labels[:, 1].sum())
    expected = [1.0, (32 - positives) / positives, 1.0]
    torch.testing.assert_close(found, torch.tensor(expected))


def run(shards: str, *, epochs: int, stop_after: int | None = None, resume=None) -> tuple[list, dict]:
    """Fit a tiny member; returns the reported epochs and the last state."""
    torch.manual_seed(7)
    config = MemberConfig(name="m", backbone="test_resnet")
    member, _ = create(config, findings=FINDINGS, size=32, preprocess_digest="d")
    epochs_seen, states = [], []

    class StoppedError(Exception):
        pass

    def report(epoch, state):
        epochs_seen.append(epoch)
        states.append(state)
        if stop_after is not None and epoch.number == stop_after:
            raise StoppedError

    parts: dict[str, ModelInputs] = {part: open_part(shards, part) for part in ("train", "validation")}
    optimize = OptimizeConfig(epochs=epochs, batch_size=8, learning_rate=0.01)
    with suppress(StoppedError):
        fit(
            member,
            **parts,
            optimize=optimize,
            views=AugmentConfig(),
            seed=5,
            worker=Worker(),
            resume=resume,
            report=report,
        )
    return epochs_seen, states[-1]


def test_fit_learns_what_can_be_learnt(shards):
    epochs, state = run(shards, epochs=6)
    assert [epoch.number for epoch in epochs] == list(range(6))
    assert epochs[-1].train_loss < epochs[0].train_loss
    finding_a = state["best_logits"].numpy()[:, :1]
    assert macro_auroc(open_part(shards, "validation").labels[:, :1], finding_a) == 1.0


def test_fit_resumed_run_ends_with_the_same_weights(shards):
    _, whole = run(shards, epochs=4)
    _, half = run(shards, epochs=4, stop_after=1)
    resumed_epochs, resumed = run(shards, epochs=4, resume=half)
    assert [epoch.number for epoch in resumed_epochs] == [2, 3]
    assert len(resumed["history"]) == 4
    for name, tensor in whole["weights"].items():
        assert torch.equal(tensor, resumed["weights"][name]), name


def test_fit_patience_stops_early(shards):
    torch.manual_seed(0)
    member, _ = create(
        MemberConfig(name="m", backbone="test_resnet"), findings=FINDINGS, size=32, preprocess_digest="d"
    )
    seen = []
    fit(
        member,
        train=open_part(shards, "train"),
        validation=open_part(shards, "validation"),
        optimize=OptimizeConfig(epochs=50, batch_size=8, learning_rate=1e-7, patience=2),
        views=AugmentConfig(),
        seed=0,
        worker=Worker(),
        resume=None,
        report=lambda epoch, state: seen.append((epoch.number, state["best_epoch"])),
    )
    assert len(seen) < 50
    assert seen[-1][0] - seen[-1][1] == 2
