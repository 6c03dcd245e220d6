"""Training as a Ray job: `cxr-ray train` with its arguments, after waiting for the nodes it asks for.

    ray job submit --working-dir . -- python jobs/train.py --gpus 4 --cpus 32 jobs/nih14.yaml --output s3://BUCKET/training

`--gpus`, `--cpus`, `--min-gpus` and `--wait-minutes` are for clusters that scale from 0; without them nothing is waited
for. Exit codes are those of `cxr-ray train`.
"""

import sys

from cxr_ray.autoscale import wait_as_asked
from cxr_ray.cli import FAILED, app
from cxr_ray.errors import CxrRayError


def main() -> None:
    """Wait for the nodes, then run the command."""
    try:
        arguments = wait_as_asked(sys.argv[1:], log=lambda line: print(line, file=sys.stderr, flush=True))
    except CxrRayError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(FAILED)
    app(["train", *arguments], prog_name="cxr-ray")


if __name__ == "__main__":
    main()
