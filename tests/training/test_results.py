"""What the card is told of the data, the loss and the stages."""

import re
from pathlib import Path

import numpy as np
import pytest

from cxr_ray.config import LossConfig, ManifestConfig, OptimizeConfig, SecondStageConfig, TrainConfig
from cxr_ray.labels.manifest import Manifest, read_manifest
from cxr_ray.models.card import CardFacts
from cxr_ray.training.cache import ModelInputs
from cxr_ray.training.results import card_facts, fitting_of, loss_of, readable
from tests.labels.tables import write
from tests.training.test_trainer import make_table, settings


def told(config: TrainConfig, manifest: Manifest) -> CardFacts:
    return card_facts(config, manifest, [], unreadable=0)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ({}, r"bce, positives weighted \(sqrt\)"),
        ({"weighting": "none"}, "bce, no weights"),
        ({"name": "w_cel"}, "w_cel, positives and negatives weighted by their numbers in each batch"),
        ({"name": "distribution_balanced", "gamma": 1.0}, "distribution_balanced, each image weighted .*, gamma 1.0"),
        (
            {"name": "ldam", "deferred": 0.8, "weighting": "effective"},
            r"ldam, positives weighted \(effective\), weights from 80% of the steps on",
        ),
    ],
)
def test_loss_of_says_how_it_weighs_and_what_departs_from_the_defaults(loss, words):
    assert re.fullmatch(words, loss_of(LossConfig.model_validate(loss)))


def test_fitting_of_tells_the_sampler_and_the_second_stage():
    first = OptimizeConfig(sampler="class_aware")
    assert fitting_of(first) == [
        "Loss: bce, positives weighted (sqrt). Order of the images: class-aware sampling, the findings in turn and an"
        " image of each (Shen 2016)."
    ]
    _, second = fitting_of(first.model_copy(update={"second_stage": SecondStageConfig(sampler="shuffle")}))
    assert second == (
        "Second stage (cRT, Kang 2020): the classifier anew, on features that stayed as they were. Loss: bce, no"
        " weights. Order of the images: shuffled."
    )


@pytest.mark.parametrize(("name", "weights"), [("bce", 2), ("w_cel", 0), ("distribution_balanced", 0)])
def test_card_facts_weights_are_of_losses_that_have_fixed_ones(tmp_path, name, weights):
    config = TrainConfig.model_validate(settings(make_table(tmp_path), optimize={"loss": {"name": name}}))
    assert len(told(config, read_manifest(config.manifest, seed=0)).weights) == weights


def test_readable_images_alone_are_counted(tmp_path):
    config = TrainConfig.model_validate(settings(make_table(tmp_path)))
    manifest = read_manifest(config.manifest, seed=0)
    uris = manifest.frame["uri"].tolist()
    parts = [
        ModelInputs(tuple(some), np.zeros((0, 2), np.float32), (), np.zeros((0, 2))) for some in (uris[:9], uris[12:])
    ]
    read = readable(manifest, parts)
    assert len(read.frame) == len(uris) - 3
    assert sum(told(config, read).images.values()) == len(uris) - 3
    assert read.digest == manifest.digest


def test_card_facts_vindr_images_are_no_patients(tmp_path):
    rows = ["image_id,rad_id,Mass,Nodule,No finding", *(f"{n},R1,{n % 2},{n % 3 % 2},0" for n in range(40))]
    path = write(tmp_path / "image_labels_train.csv", *rows)
    source = {"source": "vindr", "path": path, "image_root": "s3://bucket/films", "one_class": "allow"}
    manifest = read_manifest(ManifestConfig.model_validate(source), seed=0)
    config = TrainConfig.model_validate({**settings(Path(path)), "manifest": source})
    facts = told(config, manifest)
    assert facts.patients == {}
    assert facts.population.startswith("40 images (patients unknown)")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"source": "padchest"}, ("PA",)),
        ({"source": "chexpert"}, ("AP", "PA")),
        ({"source": "nih14"}, ()),
        ({"source": "nih14", "views": ["AP"]}, ("AP",)),
        ({"source": "padchest", "views": []}, ()),
    ],
)
def test_card_facts_views_are_those_that_were_kept(tmp_path, source, expected):
    base = TrainConfig.model_validate(settings(make_table(tmp_path)))
    manifest = read_manifest(base.manifest, seed=0)
    config = base.model_copy(update={"manifest": ManifestConfig.model_validate({"path": "t.csv", **source})})
    assert told(config, manifest).views == expected
