"""Tables of labels: reading them, checking their columns, and the one form every data set is brought into.

Knows no data set: those are in `labels/sources`. What is wrong is said with its line in the file and a near name.
"""

import csv
import difflib
import io
import re
import string
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray import storage
from cxr_ray.config import Uncertain
from cxr_ray.errors import ManifestError, StorageError
from cxr_ray.labels.findings import ABSENT, NOT_STATED, PRESENT

SHOWN = 5  # bad rows named per kind of problem; the rest is counted
METADATA = ("sex", "age", "view", "manufacturer")
RESERVED = ("uri", "name", "line", "path", "patient_id", "part", "images", *METADATA)
BOX = ("finding", "x", "y", "width", "height")

_UNCERTAIN: dict[Uncertain, float] = {"ignore": NOT_STATED, "zeros": ABSENT, "ones": PRESENT}
_AGE_UNITS = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}


@dataclass(frozen=True, slots=True)
class Labelled:
    """A data set in the common form, before it is split.

    `frame` has one row per image: `name` and `line` for messages, `path` (relative or a uri), `patient_id`, `part`
    (train, validation, test, or None throughout), those of sex, age, view and manufacturer that the data set states,
    and one float per finding (1, 0, NaN). `boxes` has the columns name, finding, x, y, width, height, in pixels of the
    published image, x and y being the upper left corner. `notes` say what each filter left, `problems` which labels
    cannot be used: a sentence each, so that the manifest reports them together with its own. `patients_known` is False
    where the data set names no patients, and each image stands for one.
    """

    frame: pd.DataFrame
    findings: tuple[str, ...]
    boxes: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    patients_known: bool = True


def read_table(path: str) -> pd.DataFrame:
    """A CSV (also .csv.gz) or Parquet table, local or s3://, columns of a CSV as text.

    Raises:
        ManifestError: It cannot be read, is empty, no table or not in UTF-8, or two of its columns have one name.
    """
    try:
        filesystem, inner = storage.filesystem(storage.absolute(path))
        if path.endswith((".parquet", ".pq")):
            with filesystem.open_input_file(inner) as file:
                if file.size() == 0:
                    raise pd.errors.EmptyDataError
                table = pd.read_parquet(file)
            _refuse_twice([str(name) for name in table.columns], path)
            return table
        with filesystem.open_input_stream(inner) as file:
            _refuse_twice(_header(file), path)  # pandas would rename the second one
        with filesystem.open_input_stream(inner) as file:
            return _unshifted(pd.read_csv(file, dtype=str, keep_default_na=False), path)
    except UnicodeDecodeError as error:
        raise ManifestError(f"The table {path} is not in UTF-8; save it as CSV in UTF-8, or as Parquet.") from error
    except pd.errors.EmptyDataError as error:
        raise ManifestError(f"The table {path} is empty; it needs a header and a row per image.") from error
    except (OSError, StorageError) as error:
        raise ManifestError(f"The table {path} cannot be read ({error}); check the path.") from error
    except (ValueError, csv.Error) as error:
        raise ManifestError(
            f"The table {path} is neither CSV nor Parquet ({type(error).__name__}); save it as one of them."
        ) from error


def _header(file: BinaryIO) -> list[str]:
    """The names in the first line of a CSV that is not blank. Raises UnicodeDecodeError, csv.Error."""
    text_of = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    return next((names for names in csv.reader(text_of) if names), [])


def _refuse_twice(names: Sequence[str], path: str) -> None:
    """Raise ManifestError for columns of one name; those without any, as behind NIH's boxes, may be many."""
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ManifestError(f"The table {path} has several columns named {listed(twice)}; keep or rename one of them.")


def _unshifted(table: pd.DataFrame, path: str) -> pd.DataFrame:
    """The table when rows end with a comma that the header lacks, as NIH's do: pandas takes the first column as index.

    Raises:
        ManifestError: There is something behind that comma: the columns cannot be told.
    """
    if isinstance(table.index, pd.RangeIndex):
        return table
    whole = table.reset_index()
    if whole.shape[1] != table.shape[1] + 1 or (whole.iloc[:, -1] != "").any():
        raise ManifestError(f"The rows of {path} have more fields than its header; name every column.")
    return whole.iloc[:, :-1].set_axis(table.columns, axis=1)


def read_text(path: str) -> str:
    """A text file, local or s3://. Raises ManifestError."""
    try:
        return storage.get(storage.absolute(path)).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"The file {path} is not in UTF-8; save it as text in UTF-8.") from error
    except (OSError, StorageError) as error:
        raise ManifestError(f"The file {path} cannot be read ({error}); check the path.") from error


def near(name: str, known: Sequence[Hashable]) -> str:
    """` (did you mean 'x'?)` for the nearest of the known names, or nothing."""
    found = difflib.get_close_matches(name, [str(other) for other in known], n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""


def require(table: pd.DataFrame, columns: Sequence[str], path: str) -> None:
    """Raise ManifestError for missing columns, with near names, and for a table without rows."""
    missing = [f"{name!r}{near(name, list(table.columns))}" for name in columns if name not in table.columns]
    if missing:
        columns = ", ".join(map(str, table.columns))
        raise ManifestError(f"The table {path} has no column {', '.join(missing)}; its columns are {columns}.")
    if table.empty:
        raise ManifestError(f"The table {path} has no rows; it needs one per image.")


def text(column: "pd.Series[str]") -> "pd.Series[str]":
    """The values without blanks around them; what is missing is empty."""
    stripped = column.astype("string").fillna("").str.strip().astype(str)
    return stripped.mask(stripped.isin(["None", "NaN", "nan"]), "")


def labels_of(
    column: "pd.Series[str]", finding: str, problems: list[str], *, uncertain: Uncertain | None = None
) -> npt.NDArray[np.float32]:
    """Labels 1, 0 or NaN of a column, -1 by the policy; what is none of these is added to `problems`."""
    values = text(column)
    blank = (values == "").to_numpy(bool)
    numbers = numbers_of(values).to_numpy()
    allowed, accepted = ((0, 1), "1, 0 or blank") if uncertain is None else ((-1, 0, 1), "1, 0, -1 or blank")
    wrong = ~blank & ~np.isin(numbers, allowed)
    problems += describe(wrong, column, repr, f"column {finding} must be {accepted}, but holds")
    if uncertain is None:
        remedy = f"say with manifest.uncertain (ignore, zeros or ones) what -1 in {finding} means;"
        problems += [remedy] if (numbers == -1).any() else []
        return np.where(wrong, np.nan, numbers).astype(np.float32)
    return np.where(wrong, np.nan, np.where(numbers == -1, _UNCERTAIN[uncertain], numbers)).astype(np.float32)


def numbers_of(column: "pd.Series[str]") -> "pd.Series[float]":
    """The values as float64; NaN where one is blank, no number, or too large to be one."""
    numbers = pd.to_numeric(text(column), errors="coerce").astype(np.float64)
    return numbers.where(np.isfinite(numbers))


def label_lists(lists: "pd.Series[list[str]]", findings: Sequence[str]) -> pd.DataFrame:
    """1 where a finding is in the row's list, else 0; NaN in all of them where the list is empty: nothing is stated."""
    rows = np.repeat(np.arange(len(lists)), lists.map(len).to_numpy(int))
    columns = pd.Index(list(findings)).get_indexer(pd.Index([name for row in lists for name in row], dtype=object))
    labels = np.zeros((len(lists), len(findings)), np.float32)
    labels[rows[columns >= 0], columns[columns >= 0]] = PRESENT
    labels[(lists.map(len) == 0).to_numpy(bool)] = NOT_STATED
    return pd.DataFrame(labels, index=lists.index, columns=list(findings))


def describe(
    wrong: npt.NDArray[np.bool_],
    values: "pd.Series[str]",
    show: Callable[[str], str],
    what: str,
    *,
    lines: "pd.Series[int] | None" = None,
) -> list[str]:
    """A sentence that names the first wrong values with their lines in the file; none when nothing is wrong."""
    rows = np.flatnonzero(wrong)
    if len(rows) == 0:
        return []
    line = (lambda row: row + 2) if lines is None else (lambda row: lines.iloc[row])
    named = ", ".join(f"{show(values.iloc[row])} (line {line(row)})" for row in rows[:SHOWN])
    return [f"{what} {named}{and_more(len(rows))};"]


def blank_images(names: "pd.Series[str]", *, lines: "pd.Series[int] | None" = None) -> list[str]:
    """A sentence that names the first lines without an image; none when each has one."""
    rows = np.flatnonzero((names == "").to_numpy(bool))
    if len(rows) == 0:
        return []
    which = [row + 2 if lines is None else lines.iloc[row] for row in rows]
    word = "line" if len(rows) == 1 else "lines"
    return [f"the image is blank in {word} {listed(which)}; name it, or remove the row;"]


def counted(count: int, what: str) -> str:
    """Such as `1 labelled image` and `1,234 labelled images`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def and_more(count: int) -> str:
    """` and 7 more` when not all could be shown."""
    return f" and {count - SHOWN} more" if count > SHOWN else ""


def listed(names: Sequence[object]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(str(name) for name in names[:SHOWN]) + and_more(len(names))


def refuse(path: str, problems: Sequence[str]) -> None:
    """Raise ManifestError with all problems of a table; nothing when there are none."""
    if problems:
        raise ManifestError(f"The manifest {path} cannot be used: {' '.join(problems)}")


def image_paths(table: pd.DataFrame, layout: str, path: str) -> "pd.Series[str]":
    """Path of each image: the layout with columns of the table in braces, such as `{ImageDir}/{ImageID}`."""
    try:
        pieces = list(string.Formatter().parse(layout))
    except ValueError as error:
        raise _wrong_layout(layout, str(error).lower(), table, path) from error
    if any(form or conversion for _, _, form, conversion in pieces):
        raise _wrong_layout(layout, "there is more than a name in braces", table, path)
    require(table, [field for _, field, _, _ in pieces if field is not None], path)
    result = pd.Series("", index=table.index, dtype=str)
    for literal, field, _, _ in pieces:
        result = result + literal if field is None else result + literal + text(table[field])
    return result


def _wrong_layout(layout: str, why: str, table: pd.DataFrame, path: str) -> ManifestError:
    """The error of a layout that cannot be read."""
    columns = ", ".join(map(str, table.columns))
    return ManifestError(
        f"manifest.layout {layout!r} cannot be read ({why}); name columns in braces, those of {path} are {columns}."
    )


def folder_of(path: str) -> str:
    """The folder of a table, local or s3://, in which its relative images lie."""
    return path.rpartition("/")[0] if storage.is_remote(path) else str(Path(path).parent)


def lines_of(table: pd.DataFrame) -> npt.NDArray[np.int64]:
    """The line of each row of a freshly read CSV; the header is line 1."""
    return np.arange(2, len(table) + 2)


def sexes(column: "pd.Series[str]") -> "pd.Series[str]":
    """F or M from F, Female, m ...; empty for anything else."""
    first = text(column).str.upper().str[:1]
    return first.where(first.isin(["F", "M"]), "")


def ages(column: "pd.Series[str]") -> "pd.Series[float]":
    """Years from `58`, `58.0` or DICOM's `058Y`, `009M`; NaN when blank, unreadable, or not in 0..120."""
    parts = text(column).str.extract(re.compile(r"^(?P<number>\d{1,4}(?:\.\d{1,9})?)(?P<unit>[YMWD]?)$"))
    years = pd.to_numeric(parts["number"]) / parts["unit"].map(_AGE_UNITS).fillna(1.0)
    return years.where(years.between(0, 120))
