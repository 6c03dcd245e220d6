"""The command line: parse, call one function, print a summary, choose the exit code.

Results go to stdout (`--json` prints one JSON object), logs and progress to stderr. Exit codes: 0 done, 1 failed,
2 wrong usage or configuration, 3 finished but more images faulted than allowed, 143 stopped by SIGTERM.
"""

from cxr_ray.cli import evidence, running  # noqa: F401 - their commands join the app
from cxr_ray.cli.terminal import FAILED, app

__all__ = ["FAILED", "app"]
