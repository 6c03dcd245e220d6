"""How long the intervals of `cxr-ray evaluate` take: all measures of invented scores, patients drawn with replacement.

python benchmarks/bootstrap.py [--images 10000] [--patients 6000] [--findings 35] [--draws 1000] [--rounds 3]
"""

import argparse
import platform
import resource
import time
from importlib.metadata import version

import numpy as np

from cxr_ray.evaluation.bootstrap import draw


def main() -> None:
    """Print the seconds of each round and the highest resident memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"images": 10_000, "patients": 6_000, "findings": 35, "draws": 1_000, "rounds": 3}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args()
    random = np.random.default_rng(0)
    prevalence = np.geomspace(0.005, 0.4, asked.findings)
    labels = (random.random((asked.images, asked.findings)) < prevalence).astype(np.float32)
    latent = random.normal(size=labels.shape) + 1.5 * labels - 2
    probabilities = (1 / (1 + np.exp(-latent))).astype(np.float32)
    patients = [str(number) for number in random.integers(0, asked.patients, asked.images)]
    print(f"{platform.machine()}, numpy {version('numpy')}, scipy {version('scipy')}")
    for number in range(asked.rounds):
        started = time.perf_counter()
        draw(labels, probabilities, thresholds=(0.5,) * asked.findings, patients=patients, num_draws=asked.draws)
        seconds = time.perf_counter() - started
        print(f"round {number + 1}: {asked.draws:,} draws x {asked.images:,} x {asked.findings}: {seconds:.1f} s")
    print(f"highest resident memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB")


if __name__ == "__main__":
    main()
