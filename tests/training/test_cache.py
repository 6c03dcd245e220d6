"""Decoded images come back from their shards as they were written, in an order that does not depend on the shards."""

import numpy as np

from cxr_ray.training.cache import open_part


def test_open_part_shards_come_back_in_order_with_their_pixels(shards):
    train, validation = open_part(shards, "train"), open_part(shards, "validation")
    assert len(train) == 32
    assert validation.uris == tuple(f"/{number:03d}" for number in range(0, 40, 5))
    assert list(train.uris) == sorted(train.uris)
    pixels = train.pixels([3, 0, 31])
    assert pixels.shape == (3, 1, 32, 32)
    bright = train.labels[[3, 0, 31], 0]
    assert [image.mean() > 125 for image in pixels] == [label == 1 for label in bright]
    assert np.isnan(train.labels[:, 2]).any()
