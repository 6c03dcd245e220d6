"""The score table: name, Arrow type, unit and meaning of every column, and reading scores back.

One row per image version and ensemble, in OUT/scores/date=YYYY-MM-DD/RUN-DIGEST.parquet, by the day on which the run
began (UTC); files right in OUT/scores are read too. Each file carries its `Contract` (findings, members, heat-map grid,
digests) in the schema's metadata; all files of one run share it. Knows no model, no pixels and no Ray.
"""

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import pyarrow.parquet as pq

from cxr_ray import storage
from cxr_ray.errors import ConfigError
from cxr_ray.labels.findings import column_suffix

SCHEMA_VERSION = 2
SCORED, FAULTED = "scored", "faulted"
KEY = ("uri", "object_version", "ensemble_digest", "preprocess_digest")
_METADATA_KEY = b"cxr_ray"
_FILE_NAME = re.compile(r"(.+)-[0-9a-f]{16}\.parquet")
_ABREAST = 16  # files opened side by side: in an object store each costs two round trips

PLACEMENT = pa.struct(
    [
        pa.field("row_scale", pa.float64(), nullable=False),
        pa.field("row_offset", pa.float64(), nullable=False),
        pa.field("column_scale", pa.float64(), nullable=False),
        pa.field("column_offset", pa.float64(), nullable=False),
    ]
)

BOX = pa.struct([pa.field(edge, pa.float32(), nullable=False) for edge in ("top", "left", "bottom", "right")])

FINDING = pa.struct(
    [
        pa.field("finding", pa.string(), nullable=False),
        pa.field("probability", pa.float32(), nullable=False),
        pa.field("votes", pa.int8(), nullable=False),
        pa.field("map_agreement", pa.float32()),
        pa.field("peak", pa.float32()),
        pa.field("peak_row", pa.float32()),
        pa.field("peak_column", pa.float32()),
        pa.field("box", BOX),
        pa.field("heatmap", pa.binary()),
        pa.field("heatmap_spread", pa.binary()),
    ]
)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its Arrow type, whether faulted rows lack it, and what it means."""

    name: str
    type: pa.DataType
    meaning: str
    nullable: bool = True


IDENTITY = (
    Column("uri", pa.string(), "where the image was read; an archive's member is s3://b/a.zip!/IM0001", False),
    Column("object_version", pa.string(), "ETag, or size-mtime of a local file", False),
    Column("status", pa.string(), "`scored` or `faulted`", False),
    Column("fault", pa.string(), "code of the fault, null when scored"),
    Column("fault_detail", pa.string(), "one sentence with tag, name and value, null when scored"),
)

HEADER = (
    Column("sop_instance_uid", pa.string(), "SOP Instance UID (0008,0018), null for PNG, JPEG and TIFF"),
    Column("series_instance_uid", pa.string(), "Series Instance UID (0020,000E)"),
    Column("study_instance_uid", pa.string(), "Study Instance UID (0020,000D)"),
    Column("patient_key", pa.string(), "HMAC-SHA256 of Patient ID (0010,0020), null without CXR_RAY_PATIENT_KEY"),
    Column("modality", pa.string(), "Modality (0008,0060), a defined term or OTHER"),
    Column("manufacturer", pa.string(), "vendor that Manufacturer (0008,0070) names, one of a fixed list or OTHER"),
    Column("body_part_examined", pa.string(), "body part the header says, a code of PS3.16 Annex L or OTHER"),
    Column("view_position", pa.string(), "view the header says: PA, AP, FRONTAL, LATERAL, LL, RL, ... or OTHER"),
    Column("photometric_interpretation", pa.string(), "Photometric Interpretation (0028,0004), a defined term"),
    Column("transfer_syntax_uid", pa.string(), "Transfer Syntax UID (0002,0010)"),
    Column("rows", pa.int32(), "height of the original image, pixels"),
    Column("columns", pa.int32(), "width of the original image, pixels"),
    Column("pixel_spacing_mm", pa.list_(pa.float32()), "row and column spacing, mm"),
)

READING = (
    Column("voi_source", pa.string(), "where the grey range came from: header LUT or window, percentiles, full range"),
    Column("gate", pa.string(), "what let the image pass: `header`, `image` (the look at its pixels), `unchecked`"),
    Column("placement", PLACEMENT, "original = model input x scale + offset, in pixels, per axis"),
)

PROVENANCE = (
    Column("ensemble_digest", pa.string(), "which ensemble, thresholds and calibration", False),
    Column("preprocess_digest", pa.string(), "which way from radiograph to model input", False),
    Column("run_id", pa.string(), "which run; OUT/runs/RUN_ID.json tells its settings", False),
    Column("scored_at", pa.timestamp("us", tz="UTC"), "when the row was made", False),
)


@dataclass(frozen=True, slots=True)
class Contract:
    """What all rows of one ensemble share; written into each file's schema."""

    findings: tuple[str, ...]
    members: tuple[str, ...]
    grid: int
    size: int
    thresholds: tuple[float, ...]
    ensemble_digest: str
    preprocess_digest: str
    schema_version: int = SCHEMA_VERSION
    combination: str | None = None  # the rule by which members become one; None before it was written
    member_thresholds: tuple[tuple[float, ...], ...] | None = None  # members x findings; None before they were written

    def to_json(self) -> str:
        """The contract as one JSON object."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Contract":
        """The contract back from its JSON; raises ConfigError when another schema version wrote it."""
        values: dict[str, Any] = json.loads(text)
        if values.get("schema_version") != SCHEMA_VERSION:
            raise ConfigError(
                f"These scores have schema version {values.get('schema_version')!r}, this program reads"
                f" {SCHEMA_VERSION}; use the cxr-ray version that wrote them."
            )
        for key in ("findings", "members", "thresholds"):
            values[key] = tuple(values[key])
        if values.get("member_thresholds") is not None:
            values["member_thresholds"] = tuple(map(tuple, values["member_thresholds"]))
        return cls(**values)


def columns(findings: Sequence[str]) -> tuple[Column, ...]:
    """All columns, in order, for these findings."""
    scores = (
        [
            Column(f"probability_{column_suffix(f)}", pa.float32(), f"combined, calibrated probability of {f}")
            for f in findings
        ]
        + [
            Column(f"votes_{column_suffix(f)}", pa.int8(), f"members at or above their threshold for {f}")
            for f in findings
        ]
        + [
            Column(
                f"spread_{column_suffix(f)}", pa.float32(), f"standard deviation of the members' probabilities of {f}"
            )
            for f in findings
        ]
    )
    details = (
        Column("member_probabilities", pa.list_(pa.float32()), "members x findings, row-major, uncalibrated"),
        Column("findings", pa.list_(FINDING), "the reported findings with heat maps of G x G bytes, 0..255"),
        Column(
            "member_heatmaps",
            pa.list_(pa.binary()),
            "of each reported finding, in the order of `findings`: M x G x G bytes, 0..255; null unless kept",
        ),
    )
    return (*IDENTITY, *HEADER, *READING, *scores, *details, *PROVENANCE)


def schema(contract: Contract) -> pa.Schema:
    """The Arrow schema of the score table under `contract`."""
    fields = [pa.field(c.name, c.type, c.nullable, {"meaning": c.meaning}) for c in columns(contract.findings)]
    return pa.schema(fields, metadata={_METADATA_KEY: contract.to_json().encode()})


def encode(table: pa.Table) -> bytes:
    """The table as one Parquet file: zstd, no dictionary on the heat maps, which do not repeat."""
    plain = {
        "findings.list.element.heatmap",
        "findings.list.element.heatmap_spread",
        "member_probabilities.list.element",
        "member_heatmaps.list.element",
    }
    paths = pq.ParquetFile(pa.BufferReader(_empty_file(table.schema))).schema
    dictionary = [paths.column(i).path for i in range(len(paths.names)) if paths.column(i).path not in plain]
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=dictionary)
    return bytes(sink.getvalue())


def _empty_file(arrow_schema: pa.Schema) -> pa.Buffer:
    """An empty Parquet file of this schema, to learn the paths of its leaf columns."""
    sink = pa.BufferOutputStream()
    pq.write_table(arrow_schema.empty_table(), sink)
    return sink.getvalue()


def file_uri(output: str, run_id: str, digest: str) -> str:
    """Where a run writes the score file of this digest: by the day of its start, with which its name begins."""
    day = f"{run_id[:4]}-{run_id[4:6]}-{run_id[6:8]}"
    return storage.join(output, "scores", f"date={day}", f"{run_id}-{digest}.parquet")


def run_of(uri: str) -> str:
    """The run that wrote a score file; a file of another name counts as a run of its own."""
    name = uri.rpartition("/")[2]
    found = _FILE_NAME.fullmatch(name)
    return found[1] if found else name


def score_files(output: str, contract: Contract | None = None) -> dict[str, str]:
    """Uris and versions of the score files below `output`, in order, of one ensemble if its `contract` is given."""
    folder = storage.join(output, "scores")
    listed = sorted(
        (item.uri, item.version)
        for item in storage.list_objects(folder, missing_ok=True)
        if item.uri.endswith(".parquet")
    )
    files = dict(listed)
    if contract is None:
        return files
    runs = _contracts_of_runs(files)
    wanted = contract.ensemble_digest
    return {uri: version for uri, version in files.items() if runs[run_of(uri)].ensemble_digest == wanted}


def contracts(output: str) -> dict[str, Contract]:
    """Ensemble digest -> contract of the score files below `output`."""
    found: dict[str, Contract] = {}
    for contract in _contracts_of_runs(score_files(output)).values():
        found.setdefault(contract.ensemble_digest, contract)
    return found


def _contracts_of_runs(files: Mapping[str, str]) -> dict[str, Contract]:
    """Run -> what all of its rows share, from one of its files."""
    first: dict[str, tuple[str, str]] = {}
    for uri, version in files.items():
        first.setdefault(run_of(uri), (uri, version))
    with ThreadPoolExecutor(_ABREAST) as pool:
        return dict(zip(first, pool.map(lambda file: _contract_of_version(*file), first.values()), strict=True))


@lru_cache(maxsize=4096)
def _contract_of_version(uri: str, version: str) -> Contract:
    """The contract of a score file, read once for each of its versions."""
    return read_contract(uri)


def read_contract(uri: str) -> Contract:
    """The contract in the schema of one score file; raises ConfigError when the file is none of ours."""
    filesystem, path = storage.filesystem(uri)
    metadata = pq.read_schema(path, filesystem=filesystem).metadata or {}
    if _METADATA_KEY not in metadata:
        raise ConfigError(f"{uri} was not written by cxr-ray; choose another --output folder.")
    return Contract.from_json(metadata[_METADATA_KEY])


def rows_of(output: str, *, wanted: Sequence[str], contract: Contract, where: pc.Expression | None = None) -> pa.Table:
    """The `wanted` columns of all rows of one ensemble, old versions included; no rows when there are no files.

    `where` keeps only some rows, so that the columns of the others are never held.
    """
    whole = schema(contract)
    part = pa.schema([whole.field(name) for name in wanted])
    files = score_files(output, contract)
    if not files:
        return part.empty_table()
    filesystem, paths = storage.paths_on(list(files))
    rows = pds.dataset(paths, filesystem=filesystem, format="parquet", schema=whole)
    chosen = pc.field("ensemble_digest") == contract.ensemble_digest
    batches = rows.to_batches(columns=list(wanted), filter=chosen if where is None else chosen & where)
    return pa.Table.from_batches(batches, schema=part)


def read_scores(
    output: str,
    *,
    wanted: Sequence[str] | None = None,
    ensemble_digest: str | None = None,
    where: pc.Expression | None = None,
) -> tuple[pa.Table, Contract]:
    """The current row of every uri under one ensemble: its newest version, in order of uri.

    `ensemble_digest` None stands for the only ensemble, and `where` keeps only some uris. Raises ConfigError when
    `output` holds no scores, or several ensembles and none was chosen.
    """
    contract = choose_contract(output, ensemble_digest)
    names = list(wanted) if wanted is not None else [c.name for c in columns(contract.findings)]
    needed = list(dict.fromkeys([*names, "uri", "scored_at"]))
    table = rows_of(output, wanted=needed, contract=contract, where=where)
    table = table.append_column("_row", pa.array(range(table.num_rows), pa.int64()))
    order = table.select(["uri", "scored_at", "_row"]).sort_by([("uri", "ascending"), ("scored_at", "ascending")])
    newest = order.group_by("uri", use_threads=False).aggregate([("_row", "last")]).sort_by("uri")
    return table.take(newest["_row_last"]).select(names), contract


def choose_contract(output: str, ensemble_digest: str | None) -> Contract:
    """The contract asked for, or the only one. Raises ConfigError when there is none, or not one."""
    found = contracts(output)
    if not found:
        raise ConfigError(
            f"{output} holds no scores (no .parquet below scores/); run `cxr-ray score` with this --output first."
        )
    if ensemble_digest is None and len(found) == 1:
        return next(iter(found.values()))
    if ensemble_digest not in found:
        raise ConfigError(
            f"{output} holds scores of the ensembles {', '.join(sorted(found))}; choose one with --ensemble-digest."
        )
    return found[ensemble_digest]
