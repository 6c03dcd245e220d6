"""The audit: do the heat maps of an ensemble show where the lesions are, and what moves its scores.

Loads the ensemble and looks at labelled images whose lesions are marked. Shapes: P pairs of an image and a finding it
has, K methods.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cxr_ray import storage
from cxr_ray.config import AuditConfig
from cxr_ray.errors import BundleError, ConfigError, ManifestError
from cxr_ray.evaluation.bootstrap import Interval
from cxr_ray.evaluation.localisation.explaining import scorer
from cxr_ray.evaluation.localisation.marks import COLUMN_MARKS, Marks, find_regions
from cxr_ray.evaluation.localisation.masks import find_lungs
from cxr_ray.evaluation.localisation.study import measure_all
from cxr_ray.evaluation.localisation.subjects import Film, choose, has_region, read_films, read_subjects
from cxr_ray.evaluation.shortcuts.study import ShortcutAudit, shortcut_audit
from cxr_ray.labels.matching import Counts
from cxr_ray.models.ensemble import choose_device, load_ensemble, load_ensemble_spec
from cxr_ray.scoring.table import Contract, contracts

_SHOWN = {"pointing_game": "pointing", "hit_rate": "hit rate", "iou": "IoU", "miou": "mIoU"}
_NOTES = (
    "Every image with label 1 and a marked lesion counts, whether the ensemble finds it or not; `true_positives` are"
    " those at or above the threshold. Means are over pairs of an image and a finding.",
    "pointing_game_tolerant also counts a peak beside the lesion by up to 3 % of the film's longer side, Zhang's 15"
    " pixels of photographs 500 pixels long.",
    "The best member is chosen on one half of the patients and compared on the other, and the reverse.",
    "Similarity is Spearman's correlation of the ensemble's Grad-CAM before and after; training on random labels, the"
    " other test of Adebayo et al., is not done.",
    "Areas under deletion and insertion curves are mean probabilities over shares of pixels from 0 to 1.",
    "EigenCAM knows no finding: its maps are the same for all of an image.",
)


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found, in the form of its JSON, and each measurement in `table`."""

    values: dict[str, Any]
    table: pa.Table
    shortcuts: ShortcutAudit
    counts: Counts

    def to_dict(self) -> dict[str, Any]:
        """Everything but the table as plain values; an undefined number is None."""
        return {**self.values, "shortcuts": self.shortcuts.to_dict()}

    def lines(self) -> list[str]:
        """Tables for people: localisation, sanity, faithfulness, shortcuts."""
        values = self.values
        notes = [f"Note: {note}" for note in values["notes"]]
        return [
            self.counts.words(),
            *_localisation_lines(values),
            values["verdict"],
            "",
            *(_step_line(step) for step in values["sanity"]["steps"]),
            values["sanity"]["verdict"],
            "",
            *_faithfulness_lines(values["faithfulness"]),
            "",
            *self.shortcuts.lines(),
            "",
            *notes,
        ]


def audit(
    output: str,
    bundle: str,
    manifest: str,
    *,
    config: AuditConfig,
    marks: Marks = COLUMN_MARKS,
    uri_column: str = "uri",
    image_root: str | None = None,
    patient_column: str | None = None,
    lungs: Path | None = None,
    device: str = "auto",
) -> Audit:
    """Audit the ensemble in `bundle` on the images of `manifest` that it scored below `output`.

    The shortcuts are sought on the marked images and as many without a mark, with the lungs where the folder `lungs` or
    the manifest's column `lungs` marks them. Patients as in `patients_of`.

    Raises:
        BundleError: The bundle is unusable, or is not what wrote the scores.
        ConfigError: There are no scores, or `marks` contradict each other.
        ManifestError: The labels, the marks or the lungs are unusable, or there is nothing to look at.
    """
    contract = _contract(output, bundle)
    known = read_films(
        *(output, manifest, contract), uri_column=uri_column, image_root=image_root, patient_column=patient_column
    )
    films = known.films
    regions = find_regions(
        manifest,
        marks,
        sizes=known.sizes,
        findings=contract.findings,
        uri_column=uri_column,
        image_root=image_root,
    )
    chests = find_lungs(manifest, lungs, sizes=known.sizes, uri_column=uri_column, image_root=image_root)
    marked = choose((film for film in films if has_region(film, regions.uris)), limit=config.limit, seed=config.seed)
    if not marked:
        raise ManifestError(
            f"No scored image of {manifest} has both a finding (label 1) and a marked lesion; check the {regions.kind}."
        )
    ensemble = load_ensemble(bundle, device=choose_device(device))
    found, table, read = measure_all(ensemble, marked, regions, config)
    notes = [*_NOTES, *_missing(marked, read), *known.notes]
    findings, preprocess = contract.findings, ensemble.spec.preprocess
    others = (film for film in films if not has_region(film, regions.uris))
    spared = choose(others, limit=config.limit, seed=config.seed)
    everyone = chain(
        read_subjects(marked, findings=findings, preprocess=preprocess, regions=regions, lungs=chests),
        read_subjects(spared, findings=findings, preprocess=preprocess, lungs=chests),
    )
    score = scorer(ensemble, batch_size=config.batch_size)
    shortcuts = shortcut_audit(score, everyone, findings=findings, num_draws=config.num_draws, seed=config.seed)
    head = {"ensemble_digest": contract.ensemble_digest, "num_images": len(read), "regions": regions.kind}
    told = {**known.counts.to_dict(), "clustered_by": known.clustered_by}
    return Audit({**head, **told, **found, "notes": notes}, table, shortcuts, known.counts)


def settings(*, limit: int | None, seed: int) -> AuditConfig:
    """The defaults, with another limit if one is given."""
    return AuditConfig(seed=seed) if limit is None else AuditConfig(limit=limit, seed=seed)


def write_audit(found: Audit, folder: str) -> None:
    """Write audit.parquet and audit.json into `folder`. Raises StorageError."""
    sink = pa.BufferOutputStream()
    pq.write_table(found.table, sink, compression="zstd")
    storage.put(storage.join(folder, "audit.parquet"), bytes(sink.getvalue()))
    storage.put(storage.join(folder, "audit.json"), (json.dumps(found.to_dict(), indent=2) + "\n").encode())


def _contract(output: str, bundle: str) -> Contract:
    """The contract of the rows that the bundle wrote; raises BundleError when it wrote none of them."""
    digest, found = load_ensemble_spec(bundle).digest, contracts(output)
    if not found:
        raise ConfigError(f"{output} holds no scores; run `cxr-ray score` with this --output first.")
    if digest not in found:
        raise BundleError(
            f"The bundle {bundle} is the ensemble {digest}, but the scores in {output} are of"
            f" {', '.join(sorted(found))}; give the bundle that wrote them."
        )
    return found[digest]


def _missing(marked: Sequence[Film], read: set[str]) -> list[str]:
    """A sentence about the images that could not be read again."""
    gone = [film.uri for film in marked if film.uri not in read]
    return [f"{len(gone)} images could not be read again, first {gone[0]}; they are left out."] if gone else []


def _localisation_lines(values: dict[str, Any]) -> list[str]:
    """One line per method."""
    table = values["localisation"]
    width = max(len(found["label"]) for found in table.values())
    head = f"{'heat map':<{width}} {'maps':>6} " + " ".join(f"{name:>22}" for name in (*_SHOWN.values(), "IoBB >= 0.5"))
    rows = [
        f"{found['label']:<{width}} {found['num_maps']:>6,} "
        + " ".join(f"{_words(interval):>22}" for interval in (*(found[name] for name in _SHOWN), found["iobb"]["0.5"]))
        for found in table.values()
    ]
    return [f"{values['num_images']:,} images with lesions marked by {values['regions']}.", head, *rows]


def _step_line(step: dict[str, Any]) -> str:
    """One step of the cascade."""
    return f"Rank correlation with {step['randomised']} in random order: {_words(step['similarity'])}"


def _faithfulness_lines(found: dict[str, Any]) -> list[str]:
    """One line per method."""
    if not found:
        return []
    width = max(len(curves["label"]) for curves in found.values())
    rows = [
        f"{curves['label']:<{width}} {_words(curves['deletion_auc']):>22} {_words(curves['insertion_auc']):>22}"
        for curves in found.values()
    ]
    return [f"{'area under the curve':<{width}} {'deletion (low: good)':>22} {'insertion (high: good)':>22}", *rows]


def _words(interval: dict[str, float | None]) -> str:
    """An interval of the JSON as text."""
    value, low, high = (float("nan") if number is None else number for number in interval.values())
    return Interval(value, low, high).words()
