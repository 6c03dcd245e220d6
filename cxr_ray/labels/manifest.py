"""The checked training table: one row per image with its patient, its part and its labels.

All bad rows are reported at once, each with its line in the file. The split is by patient. Knows no pixels.
"""

import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import storage
from cxr_ray.config import ManifestConfig
from cxr_ray.errors import ManifestError, StorageError
from cxr_ray.images.packed import members
from cxr_ray.labels.findings import check_findings

PARTS = ("train", "validation", "test")
_SHOWN = 5  # bad rows named per kind of problem; the rest is counted


@dataclass(frozen=True, slots=True)
class Manifest:
    """The training table. `frame` has the columns uri, patient_id, part and one float per finding (1, 0, NaN)."""

    frame: pd.DataFrame
    findings: tuple[str, ...]
    digest: str

    def counts(self) -> pd.DataFrame:
        """Images and positives of each finding per part: rows are parts, columns `images` and the findings."""
        positives = (self.frame[list(self.findings)] == 1).groupby(self.frame["part"]).sum()
        positives.insert(0, "images", self.frame.groupby("part").size())
        return positives.reindex([part for part in PARTS if part in positives.index])


def read_table(path: str) -> pd.DataFrame:
    """A CSV or Parquet table, local or s3://, columns of a CSV as text. Raises ManifestError."""
    try:
        filesystem, inner = storage.filesystem(storage.absolute(path))
        with filesystem.open_input_file(inner) as file:
            if path.endswith((".parquet", ".pq")):
                return pd.read_parquet(file)
            return pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, StorageError) as error:
        raise ManifestError(f"The table {path} cannot be read ({error}); check the path.") from error
    except (ValueError, pd.errors.ParserError) as error:
        raise ManifestError(f"The table {path} is neither CSV nor Parquet ({type(error).__name__}).") from error


def read_manifest(config: ManifestConfig, *, seed: int) -> Manifest:
    """Read, check and, where no part column is named, split a training table.

    Raises:
        ManifestError: A column is missing, or rows are unusable; the message lists them.
    """
    findings = check_findings(config.findings)
    table = read_table(config.path)
    _check_columns(table, config)
    root = config.image_root or str(Path(config.path).parent)
    frame = pd.DataFrame(
        {
            "uri": [storage.absolute(storage.join(root, str(name))) for name in table[config.uri_column]],
            "patient_id": table[config.patient_column].astype(str).str.strip(),
        }
    )
    problems: list[str] = []
    for finding in findings:
        frame[finding] = _labels(table[finding], finding, problems)
    if config.part_column is not None:
        frame["part"] = (
            table[config.part_column].astype(str).str.strip().replace({"valid": "validation", "val": "validation"})
        )
    problems += _row_problems(table, frame, config)
    if problems:
        raise ManifestError(f"The manifest {config.path} cannot be used: {' '.join(problems)}")
    if config.part_column is None:
        frame["part"] = split_by_patient(frame, findings, shares=config.shares, seed=seed)
    missing = [part for part in PARTS[:2] if part not in set(frame["part"])]
    if missing:
        raise ManifestError(
            f"The manifest {config.path} has no image in the part {missing[0]}; add some or change the shares."
        )
    frame = frame[["uri", "patient_id", "part", *findings]]
    return Manifest(frame, findings, _digest(frame))


def read_truth(
    path: str, *, findings: Sequence[str], uri_column: str = "uri", image_root: str | None = None
) -> pd.DataFrame:
    """Labels by absolute uri for evaluation: index uri, one float column per finding that the table has.

    Raises:
        ManifestError: The uri column, or every finding, is missing; a label is not 1, 0 or blank.
    """
    table = read_table(path)
    known = [finding for finding in findings if finding in table.columns]
    if uri_column not in table.columns or not known:
        wanted = uri_column if uri_column not in table.columns else "any of the findings " + ", ".join(findings)
        raise ManifestError(f"The table {path} has no column {wanted}; it has {', '.join(map(str, table.columns))}.")
    root = image_root or str(Path(path).parent)
    problems: list[str] = []
    truth = pd.DataFrame({finding: _labels(table[finding], finding, problems) for finding in known})
    if problems:
        raise ManifestError(f"The table {path} cannot be used: {' '.join(problems)}")
    truth.index = pd.Index([storage.absolute(storage.join(root, str(name))) for name in table[uri_column]], name="uri")
    return truth


def _check_columns(table: pd.DataFrame, config: ManifestConfig) -> None:
    """Raise ManifestError for missing columns, with near names, and for a table without rows."""
    wanted = [config.uri_column, config.patient_column, *config.findings]
    wanted += [config.part_column] if config.part_column else []
    have = [str(name) for name in table.columns]
    hints = []
    for name in wanted:
        if name not in have:
            near = difflib.get_close_matches(name, have, n=1, cutoff=0.5)
            hints.append(f"{name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    if hints:
        raise ManifestError(
            f"The manifest {config.path} has no column {', '.join(hints)}; its columns are {', '.join(have)}."
        )
    if table.empty:
        raise ManifestError(f"The manifest {config.path} has no rows; it needs one per image.")


def _labels(column: pd.Series, finding: str, problems: list[str]) -> npt.NDArray[np.float32]:
    """Labels 1, 0 or NaN of a column; what is none of these is added to `problems`."""
    text = column.astype("string").fillna("").str.strip()
    blank = text.isin(["", "None", "NaN", "nan"]).to_numpy(bool)
    values = pd.to_numeric(text.where(~blank), errors="coerce").astype("float32").to_numpy(np.float32, na_value=np.nan)
    wrong = ~blank & ~((values == 0) | (values == 1))
    problems += _describe(
        wrong, column, lambda value: f"{value!r}", f"column {finding} must be 1, 0 or blank, but holds"
    )
    return values


def _row_problems(table: pd.DataFrame, frame: pd.DataFrame, config: ManifestConfig) -> list[str]:
    """One sentence per kind of problem in the rows."""
    names = table[config.uri_column].astype(str)
    problems = _describe((frame["patient_id"] == "").to_numpy(), names, str, "the patient is blank for")
    problems += _describe(frame["uri"].duplicated().to_numpy(), names, str, "these images are listed before:")
    local = ~frame["uri"].map(storage.is_remote).to_numpy(bool)
    files = frame["uri"].map(lambda uri: members.split(uri)[0])
    absent = np.array([here and not Path(file).is_file() for here, file in zip(local, files, strict=True)])
    problems += _describe(absent, frame["uri"], str, "these images do not exist:")
    if "part" in frame:
        unknown = ~frame["part"].isin(PARTS).to_numpy()
        problems += _describe(unknown, frame["part"], repr, "the part must be train, validation or test, not")
        parts = frame.groupby("patient_id")["part"].nunique()
        torn = [str(patient) for patient in parts.index[parts > 1]]
        if torn:
            shown = ", ".join(torn[:_SHOWN]) + (f" and {len(torn) - _SHOWN} more" if len(torn) > _SHOWN else "")
            problems.append(f"the same patient is in two parts: {shown}; keep all images of a patient in one part.")
    return problems


def _describe(
    wrong: npt.NDArray[np.bool_], values: "pd.Series[str]", show: Callable[[str], str], what: str
) -> list[str]:
    """A sentence that names the first wrong values with their lines in the file; none when nothing is wrong."""
    rows = np.flatnonzero(wrong)
    if len(rows) == 0:
        return []
    named = ", ".join(f"{show(values.iloc[row])} (line {row + 2})" for row in rows[:_SHOWN])
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return [f"{what} {named}{more};"]


def split_by_patient(
    frame: pd.DataFrame, findings: Sequence[str], *, shares: tuple[float, float, float], seed: int
) -> "pd.Series[str]":
    """Part of each row: patients are dealt so that every part holds its share of every finding.

    The strata are the unions of each patient's labels, and whether there are any.

    Source: Sechidis et al. 2011, On the stratification of multi-label data.
    """
    union = (frame[list(findings)] == 1).groupby(frame["patient_id"]).max()
    union["_none"] = ~union.any(axis=1)
    parts = pd.Series("train", index=union.index)
    if len(union) < 4:
        raise ManifestError(f"{len(union)} patients cannot be split by patient; name a part column.")
    if shares[2] > 0:
        parts[_draw(union, share=shares[2], seed=seed)] = "test"
    rest = union[parts == "train"]
    parts[_draw(rest, share=shares[1] / (shares[0] + shares[1]), seed=seed + 1)] = "validation"
    return frame["patient_id"].map(parts)


def _draw(union: pd.DataFrame, *, share: float, seed: int) -> list[str]:
    """A stratified share of the patients (rows of `union`)."""
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit  # a second, which only a split should cost

    splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=share, random_state=seed)
    _, chosen = next(splitter.split(np.zeros(len(union)), union.to_numpy(int)))
    return [str(patient) for patient in union.index[chosen]]


def _digest(frame: pd.DataFrame) -> str:
    """Digest of the table's content: images, patients, parts and labels, in order."""
    text = frame.to_csv(index=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
