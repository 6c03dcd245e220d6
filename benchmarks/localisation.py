"""The phantom's localisation table: every explanation and control against the masks of the demo's held-out films.

Takes the folder of a finished demo, and makes it first where it is absent (minutes).

    python benchmarks/localisation.py [--demo demo] [--images 1300] [--limit 400]
"""

import argparse
import subprocess
import sys
from pathlib import Path

from cxr_ray.config import AuditConfig
from cxr_ray.evaluation.audit import Audit, audit

MEASURES = {"pointing_game": "pointing game", "hit_rate": "hit rate", "iou": "IoU", "miou": "mIoU"}


def table(found: Audit) -> list[str]:
    """The table in Markdown, one row per heat map, means with 95 % intervals over patients."""
    names = [*MEASURES.values(), "IoBB >= 0.25", "IoBB >= 0.5"]
    lines = [f"| heat map | maps | {' | '.join(names)} |", "|" + "---|" * (len(names) + 2)]
    for values in found.to_dict()["localisation"].values():
        intervals = [*(values[name] for name in MEASURES), values["iobb"]["0.25"], values["iobb"]["0.5"]]
        cells = [
            "-" if one["value"] is None else f"{one['value']:.3f} ({one['low'] or 0:.3f} to {one['high'] or 0:.3f})"
            for one in intervals
        ]
        lines.append(f"| {values['label']} | {values['num_maps']:,} | {' | '.join(cells)} |")
    return [*lines, "", found.to_dict()["verdict"]]


def main() -> None:
    """Audit and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("demo"))
    parser.add_argument("--images", type=int, default=1300)
    parser.add_argument("--limit", type=int, default=400)
    options = parser.parse_args()
    demo = options.demo.absolute()
    if not (demo / "report.html").exists():
        command = [sys.executable, "-m", "cxr_ray.cli", "demo", "--output", str(demo), "--images", str(options.images)]
        subprocess.run(command, check=True)
    manifest = demo / "archive" / "labels.csv"
    config = AuditConfig(limit=options.limit)
    found = audit(str(demo / "scores"), str(demo / "training" / "ensemble"), str(manifest), config=config)
    print("\n".join(table(found)))
    print("\n".join(found.lines()))


if __name__ == "__main__":
    main()
