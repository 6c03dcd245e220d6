"""Coverage-guided fuzzing of the way from bytes to model input (atheris, libFuzzer): see docs/fuzzing.md.

    python -m tests.images.fuzz_decode --corpus FOLDER [libFuzzer's options, e.g. -max_total_time=3600 -jobs=8]

The corpus is begun with the sample files and grows; what crashes is left in crash-*, what takes long in timeout-*.
"""

import hashlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["cxr_ray.images", "pydicom"]):
    from tests.images.mutations import outcome, samples


def begin(corpus: Path) -> None:
    """Put the sample files into the corpus."""
    corpus.mkdir(parents=True, exist_ok=True)
    for data in samples():
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def main(arguments: list[str]) -> None:
    """Fuzz until libFuzzer's options say stop, or something else than an image or a fault comes out."""
    place = arguments.index("--corpus")
    corpus, options = Path(arguments[place + 1]), [*arguments[:place], *arguments[place + 2 :]]
    begin(corpus)
    defaults = ["-timeout=30", "-rss_limit_mb=4096", "-max_len=700000"]
    atheris.Setup([*options[:1], *defaults, *options[1:], str(corpus)], outcome_only)
    atheris.Fuzz()


def outcome_only(data: bytes) -> None:
    """The target: `outcome` raises for what is neither an image nor a fault."""
    outcome(data)


if __name__ == "__main__":
    main(sys.argv)
