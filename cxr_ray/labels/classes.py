"""The class table: what of each finding every part holds, and the weight its positives get."""

from collections.abc import Sequence

from cxr_ray.labels.manifest import Manifest
from cxr_ray.labels.split import PARTS


def class_table(manifest: Manifest, weights: Sequence[float]) -> list[str]:
    """Lines for people: images per part, then per finding the positives, their share of the stated labels, the weight.

    A share is `-` where no label is stated. `weights` has one number per finding, in the manifest's order.
    """
    frame, findings = manifest.frame, list(manifest.findings)
    parts = [part for part in PARTS if (frame["part"] == part).any()]
    groups = {part: frame.loc[frame["part"] == part, findings] for part in parts}
    width = max(len(name) for name in ("finding", "images", *findings))
    head = f"{'finding':<{width}}" + "".join(f" {part:>17}" for part in parts) + f" {'weight':>8}"
    sizes = f"{'images':<{width}}" + "".join(f" {len(groups[part]):>9,}{'':8}" for part in parts) + f" {'':>8}"
    rows = []
    for finding, weight in zip(findings, weights, strict=True):
        cells = []
        for part in parts:
            labels = groups[part][finding]
            share = f"{labels.mean():.2%}" if labels.notna().any() else "-"
            cells.append(f" {int((labels == 1).sum()):>9,} {share:>7}")
        rows.append(f"{finding:<{width}}{''.join(cells)} {weight:>8.2f}")
    return [head, sizes.rstrip(), *rows]
