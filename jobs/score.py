r"""Scoring as a Ray job: `cxr-ray score` with its arguments, after waiting for the nodes it asks for.

    ray job submit --working-dir . -- python jobs/score.py --gpus 2 --cpus 48 \
        s3://BUCKET/archive --ensemble s3://BUCKET/ensemble --output s3://BUCKET/scores

`--gpus`, `--cpus`, `--min-gpus` and `--wait-minutes` are for clusters that scale from 0; without them nothing is waited
for. Exit codes are those of `cxr-ray score`.
"""

import sys

from cxr_ray.autoscale import wait_as_asked
from cxr_ray.cli import app
from cxr_ray.errors import CxrRayError


def main() -> None:
    """Wait for the nodes, then run the command."""
    try:
        arguments = wait_as_asked(sys.argv[1:], log=lambda line: print(line, file=sys.stderr, flush=True))
    except CxrRayError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    app(["score", *arguments], prog_name="cxr-ray")


if __name__ == "__main__":
    main()
