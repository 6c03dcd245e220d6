"""A folder of phantom films in many encodings with labels and masks: demo data and the tests' ground truth.

Who has what is decided in cohort.py. Knows nothing of models or of how the project reads images.
"""

import csv
import io
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr_ray.errors import ConfigError
from cxr_ray.images.phantom.cohort import assign_parts, draw_labels, films_per_patient, follow
from cxr_ray.images.phantom.drawing import draw_film
from cxr_ray.images.phantom.files import ENCODINGS, Item, encode
from cxr_ray.images.phantom.lesions import FINDINGS as FINDINGS


def write_archive(
    folder: Path, *, num_images: int, seed: int = 0, side: int = 384, processes: int | None = None
) -> Path:
    """Write an archive: images/*.dcm and *.png, masks/*.png, lungs/*.png and, last, labels.csv.

    Processes are started by spawning: a script that calls this needs the usual `if __name__ == "__main__":`.

    Args:
        folder: Where; made if absent.
        num_images: Films; 1 to 3 of each patient.
        seed: Fixes every byte.
        side: Height of the films in pixels.
        processes: Worker processes; None takes one per CPU, 1 starts none.

    Returns:
        Path of labels.csv.

    Raises:
        ConfigError: `num_images` or `side` is too small.
    """
    items = plan_archive(num_images, seed)
    for name in ("images", "masks", "lungs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    table = folder / "labels.csv"
    table.unlink(missing_ok=True)
    write = partial(_write_item, folder=folder, side=side)
    workers = min(processes or os.cpu_count() or 1, num_images)
    if workers == 1:
        _keep_freed_memory()
        rows = [write(item) for item in items]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_keep_freed_memory) as pool:
            rows = list(pool.map(write, items, chunksize=8))
    unfinished = table.with_suffix(".part")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    unfinished.replace(table)
    return table


def _keep_freed_memory() -> None:
    """Let glibc reuse the memory of freed arrays instead of handing it back to the kernel each time.

    Freeing one large block raises glibc's threshold for that (mallopt(3), M_MMAP_THRESHOLD), which saves the page
    faults of every later array: 38 ms of CPU per film become 26. Elsewhere it does nothing.
    """
    np.ones(24 * 2**20, dtype=np.uint8)


def read_masks(png: bytes) -> NDArray[np.bool_]:
    """What a file of masks/ holds: (F, H, W), in the order of FINDINGS.

    Raises OSError for what is no picture, and ValueError for a picture in colour.
    """
    with Image.open(io.BytesIO(png)) as image:
        bits = np.asarray(image, dtype=np.uint8)
    if bits.ndim != 2:
        raise ValueError(f"masks of several findings are one grey picture, not one of shape {bits.shape}")
    return np.stack([(bits >> f) & 1 for f in range(len(FINDINGS))]).astype(np.bool_)


def plan_archive(
    num_images: int, seed: int, *, shares: tuple[float, float, float] = (0.72, 0.10, 0.18)
) -> tuple[Item, ...]:
    """Decide patients, findings, parts and encodings of an archive; pure.

    Raises:
        ConfigError: `num_images` is below 1.
    """
    if num_images < 1:
        raise ConfigError(f"An archive needs at least 1 image, not {num_images}.")
    rng = np.random.default_rng((seed, 0))
    films = films_per_patient(num_images, rng)
    labels = [follow(first, count, rng) for first, count in zip(draw_labels(rng, len(films)), films, strict=True)]
    parts = assign_parts(np.stack([rows.sum(axis=0) for rows in labels]), np.array(films), shares)
    seeds = rng.integers(2**31, size=num_images + len(films)).tolist()
    return tuple(
        Item(
            name=f"p{patient:05d}_{film}",
            patient_id=f"P{patient:05d}",
            part=parts[patient],
            present=tuple(name for name, label in zip(FINDINGS, labels[patient][film], strict=True) if label),
            patient_seed=seeds[num_images + patient],
            film_seed=seeds[index],
            encoding=ENCODINGS[index % len(ENCODINGS)],
        )
        for index, (patient, film) in enumerate(_visits(films))
    )


def _visits(films: list[int]) -> Iterator[tuple[int, int]]:
    """Patient and film number of every image."""
    return ((patient, film) for patient, count in enumerate(films) for film in range(count))


def _write_item(item: Item, *, folder: Path, side: int) -> dict[str, str | int]:
    """Draw and write one film, its masks and its lungs; returns its row of labels.csv."""
    phantom = draw_film(item.patient_seed, item.film_seed, side, item.present)
    (folder / item.uri).write_bytes(encode(phantom, item))
    bits = np.packbits(phantom.masks, axis=0, bitorder="little")[0]
    Image.fromarray(bits).save(folder / item.masks, "PNG", compress_level=1)
    Image.fromarray(phantom.lungs).save(folder / item.lungs, "PNG")  # of 1 bit a pixel: 1 kB at a side of 320
    row: dict[str, str | int] = {
        "uri": item.uri,
        "patient_id": item.patient_id,
        "part": item.part,
        "sex": phantom.sex,
        "age": phantom.age,
        "view_position": phantom.view_position,
        "masks": item.masks,
        "lungs": item.lungs,
    }
    return row | {name: int(label) for name, label in zip(FINDINGS, phantom.labels, strict=True)}
