"""Write the golden files: `python -m tests.images.golden.make`.

One DICOM file for each case of cases.py; expected.npz, what is to be seen of each (H, W), 0..1, float32; and
agreement.json, which says for each reference of references.py how far at most it is from that, or why it was not asked.
Run it where DCMTK is installed. The DICOM files come out the same to the byte, also with another zlib but for
`deflated`. Nothing here or in the modules beside it comes from cxr_ray.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.images.golden.cases import Case, cases
from tests.images.golden.references import REFERENCES, TOLERANCES

FOLDER = Path(__file__).parent


def expectation(case: Case) -> NDArray[np.float32]:
    """By hand where that is given, else by the first reference that can be asked."""
    if case.by_hand is not None:
        return case.by_hand.astype(np.float32)
    first = next(name for name in REFERENCES if name not in case.without)
    return REFERENCES[first](case.data).astype(np.float32)


def agreement(case: Case, expected: NDArray[np.float32]) -> dict[str, float | str]:
    """The largest difference of each reference from what is expected, or why it was not asked."""
    told: dict[str, float | str] = {}
    for name, display in REFERENCES.items():
        if name in case.without:
            told[name] = case.without[name]
            continue
        difference = float(np.abs(display(case.data) - expected).max())
        if difference > TOLERANCES[name]:
            raise SystemExit(f"{name} is off by {difference:.2g} in {case.name}; find out who is right.")
        told[name] = float(f"{difference:.1e}")
    return told


def stored() -> dict[str, NDArray[np.float32]]:
    """What is to be seen of each case, as the folder has it."""
    with np.load(FOLDER / "expected.npz") as files:
        names, shapes, pixels = files["names"].tolist(), files["shapes"], files["pixels"]
    films = np.split(pixels, np.cumsum(shapes.prod(axis=1))[:-1])
    return {name: film.reshape(shape) for name, film, shape in zip(names, films, shapes, strict=True)}


def main() -> None:
    """Write the folder anew."""
    for old in (*FOLDER.glob("*.dcm"), *FOLDER.glob("*.npz"), *FOLDER.glob("*.json")):
        old.unlink()
    films, agreements = {}, {}
    for case in cases():
        films[case.name] = expectation(case)
        agreements[case.name] = agreement(case, films[case.name])
        (FOLDER / f"{case.name}.dcm").write_bytes(case.data)
    shapes = np.array([film.shape for film in films.values()])
    pixels = np.concatenate([film.ravel() for film in films.values()])  # in one piece: equal films then cost nothing
    np.savez_compressed(FOLDER / "expected.npz", names=list(films), shapes=shapes, pixels=pixels)
    (FOLDER / "agreement.json").write_text(json.dumps(agreements, indent=1) + "\n")


if __name__ == "__main__":
    main()
