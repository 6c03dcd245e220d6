"""The line of an epoch, and the time that is left by it."""

import pytest

from cxr_ray.training.progress import Pace, epoch_line


def test_left_member_that_begins_later_or_in_its_middle_counts_its_own_epochs():
    pace = Pace()
    pace.begin("a", now=100.0)
    assert [pace.left("a", done=done, total=4, now=100.0 + 10 * done) for done in (1, 2, 4)] == [30.0, 20.0, 0.0]
    pace.begin("b", now=1000.0)
    assert pace.left("b", done=31, total=40, now=1020.0) == pytest.approx(180.0), "thirty were done by an earlier run"
    assert pace.left("b", done=32, total=40, now=1030.0) == pytest.approx(120.0)


def test_epoch_line_counts_from_one():
    epoch = {
        "number": 1,
        "train_loss": 0.5,
        "validation_loss": 0.25,
        "macro_auroc": 0.875,
        "best": True,
        "images_per_second": 12.4,
    }
    assert epoch_line("a", epoch, total=9, left=61.2) == (
        "a epoch 2/9: loss 0.500, validation 0.250, macro AUROC 0.875 (best), 12 images/s, about 61 s left"
    )
