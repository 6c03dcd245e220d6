"""`python -m cxr_ray.cli`: the command line without its script."""

import sys

from cxr_ray.cli import app

if __name__ == "__main__":
    sys.exit(app())
