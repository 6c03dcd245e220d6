"""The demo: a phantom archive, a small ensemble trained on it, its held-out part scored, evaluated and reported.

The same commands a user has, one after the other, on data that the project makes itself. Run again with the same
folder, it does only what is left.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_ray.config import (
    AuditConfig,
    DecodeConfig,
    LossConfig,
    ManifestConfig,
    MemberConfig,
    OptimizeConfig,
    PreprocessConfig,
    ScoreConfig,
    TrainConfig,
)
from cxr_ray.evaluation.audit import Audit, audit, write_audit
from cxr_ray.evaluation.evaluate import Evaluation, evaluate
from cxr_ray.evaluation.localisation.marks import film_sizes
from cxr_ray.evaluation.localisation.masks import ColumnMasks
from cxr_ray.evaluation.localisation.pointing import pointing_game
from cxr_ray.evaluation.metrics import macro
from cxr_ray.evaluation.report.html import write_report
from cxr_ray.images.phantom import FINDINGS, write_archive
from cxr_ray.scoring.run import RunResult, score
from cxr_ray.scoring.table import read_scores
from cxr_ray.training.trainer import TrainResult, train

Log = Callable[[str], None]

# An enlarged heart and a raised diaphragm are changes of a shape; the others are lesions with a place of their own.
LOCALISED = tuple(finding for finding in FINDINGS if finding not in ("Cardiomegaly", "Hemidiaphragm_Elevation"))
_POINTING = {"localised lesions": LOCALISED, "all findings": FINDINGS}


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo made and how good it is on the held-out phantom images, measured in this run."""

    training: TrainResult
    run: RunResult
    evaluation: Evaluation
    audit: Audit
    localisation: pd.DataFrame
    report: Path
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values."""
        return {
            "training": self.training.to_dict(),
            "run": self.run.to_dict(),
            "evaluation": self.evaluation.to_dict(),
            "audit": self.audit.to_dict(),
            "macro_auroc": macro(self.evaluation.metrics)["auroc"],
            "pointing_game": {name: self.pointing(findings) for name, findings in _POINTING.items()},
            "report": str(self.report),
            "seconds": self.seconds,
        }

    def lines(self) -> list[str]:
        """The result for a person."""
        pointing = [
            f"Pointing game, {name}: {found['rate']:.1%} of {found['true_positives']:.0f} true positives"
            for name, found in ((name, self.pointing(findings)) for name, findings in _POINTING.items())
        ]
        return [
            *self.evaluation.lines(),
            "",
            *self.audit.lines(),
            "",
            *pointing,
            f"Held-out macro AUROC: {macro(self.evaluation.metrics)['auroc']:.3f}.",
            "",
            f"Ensemble: {self.training.bundle}",
            f"Scores:   {self.run.output}/scores ({self.run.scored + self.run.already_done:,} images)",
            f"Report:   {self.report}",
            f"Done in {self.seconds:.0f} s. Research software, not a medical device.",
        ]

    def pointing(self, findings: tuple[str, ...]) -> dict[str, float]:
        """True positives, hits and rate of the pointing game over some findings; the rate is NaN without any."""
        rows = self.localisation.loc[list(findings)]
        positives, hits = float(rows["num_true_positives"].sum()), float(rows["num_hits"].sum())
        return {"true_positives": positives, "hits": hits, "rate": hits / positives if positives else float("nan")}


def demo_config(manifest: Path, *, epochs: int) -> TrainConfig:
    """The demo's training run: three small backbones at 128 px with maps of 16 x 16 cells, minutes on two cores.

    Everything is trained from nothing, since weights may not be reachable.
    """
    return TrainConfig(
        manifest=ManifestConfig(path=str(manifest), part_column="part", findings=FINDINGS, one_class="allow"),
        members=DEMO_MEMBERS,
        decode=DecodeConfig(preprocess=PreprocessConfig(size=128, fit="stretch")),
        optimize=OptimizeConfig(
            epochs=epochs, batch_size=16, learning_rate=0.004, loss=LossConfig(weighting="inverse")
        ),
        seed=1,
    )


# Both poolings side by side: the mean finds an enlarged heart, the maximum a nodule of five pixels.
_MAPS: dict[str, Any] = {"output_stride": 8, "pooling": "catavgmax"}
# A quarter of resnet10t's channels, so that two cores train three members in minutes.
_SLIM: dict[str, Any] = {"channels": [32, 48, 64, 96], "stem_width": 16, "stem_type": "deep"}
DEMO_MEMBERS = (
    MemberConfig(name="resnet", backbone="test_resnet", **_MAPS),
    MemberConfig(name="resnet10", backbone="resnet10t", options=_SLIM, **_MAPS),
    MemberConfig(
        name="ecaresnet10", backbone="resnet10t", options={**_SLIM, "block_args": {"attn_layer": "eca"}}, **_MAPS
    ),
)
DEMO_EPOCHS = 10
_AUDIT = AuditConfig(sanity_images=32, faithfulness_images=16)  # with the standard 64 the curves take half of the demo


def run_demo(output: Path, *, num_images: int, epochs: int | None, log: Log) -> DemoResult:
    """Make, train, score, evaluate and report below `output`. Needs an initialised Ray."""
    started = time.monotonic()
    manifest = output / "archive" / "labels.csv"
    if not manifest.exists():
        log(f"Drawing {num_images:,} phantom radiographs with {len(FINDINGS)} findings.")
        write_archive(manifest.parent, num_images=num_images, side=320)
    training = train(demo_config(manifest, epochs=epochs or DEMO_EPOCHS), str(output / "training"), log=log)
    worklist = output / "held_out.csv"
    table = pd.read_csv(manifest)
    held_out = table[table["part"] == "test"]
    named = [name for name in ("uri", "masks", "lungs") if name in table]  # an older archive has no lungs
    places = {name: [str(manifest.parent / path) for path in held_out[name]] for name in named}
    held_out.assign(**places).to_csv(worklist, index=False)
    run = score(
        [str(worklist)],
        bundle=training.bundle,
        output=str(output / "scores"),
        config=ScoreConfig(heatmaps="all", member_heatmaps=True),
        rescore=True,
        log=log,
    )
    log("Evaluating the scores against the labels, and the heat maps against the lesions.")
    evaluation = evaluate(run.output, str(worklist), ensemble_digest=run.ensemble_digest)
    audited = audit(run.output, training.bundle, str(worklist), config=_AUDIT)
    evaluation.write(str(output / "evaluation"))
    write_audit(audited, str(output / "evaluation"))
    wanted = ["uri", "status", "rows", "columns", "findings"]
    scores, contract = read_scores(run.output, wanted=wanted, ensemble_digest=run.ensemble_digest)
    masks = ColumnMasks(str(worklist), sizes=film_sizes(scores))
    localisation = pointing_game(
        scores, evaluation.truth, masks, findings=contract.findings, thresholds=contract.thresholds
    )
    report = output / "report.html"
    write_report(
        run.output,
        report,
        ensemble_digest=run.ensemble_digest,
        evaluation=evaluation.to_dict(),
        audit=audited.to_dict(),
        truth=evaluation.truth,
        title="cxr-ray demo: phantom radiographs",
    )
    return DemoResult(training, run, evaluation, audited, localisation, report, time.monotonic() - started)
