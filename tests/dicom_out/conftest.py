"""One export of films of all kinds, beside rows that cannot be exported."""

from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest

from cxr_ray.evaluation.dicom_out import export_dicom
from cxr_ray.evaluation.dicom_out.export import Exported
from cxr_ray.images.phantom import make_phantom
from tests.dicom_out.invented import KINDS, Archive, source, write_archive
from tests.evaluation.invented import HEIGHT, faulted_row, scored_row
from tests.images.dicom_files import SHARED_DICOM

REAL = ("chest/pydicom-data__RG1_J2KI.dcm", "not_chest/highdicom__test_files__dx_image.dcm")


@dataclass(frozen=True, slots=True)
class Pacs:
    """An archive, the folder that it was exported to, and what was said of it."""

    archive: Archive
    folder: Path
    exported: Exported

    def of(self, name: str, kind: str) -> list[Path]:
        """The objects of one kind of one file's study."""
        study = self.archive.rows[name]["study_instance_uid"]
        return sorted((self.folder / study).glob(f"{kind}-*.dcm"))

    def read(self, name: str, kind: str) -> pydicom.Dataset:
        """The first of them."""
        return pydicom.dcmread(self.of(name, kind)[0])


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    phantom = make_phantom(11, side=200)
    assert phantom.pixels.shape[0] != HEIGHT
    files = {kind: source(phantom, kind, seed=seed) for seed, kind in enumerate(KINDS)}
    if SHARED_DICOM.is_dir():
        files |= {Path(name).stem: (SHARED_DICOM / name).read_bytes() for name in REAL}
    png = scored_row("/films/a.png", "1", ((0.9, 0.1, 0.2), (3, 0, 0), (0.02, 0.01, 0.01)))
    return write_archive(tmp_path_factory.mktemp("pacs"), files, [png, faulted_row("/films/b.dcm", "corrupt", "Bad.")])


@pytest.fixture(scope="session")
def pacs(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Pacs:
    folder = tmp_path_factory.mktemp("exported")
    return Pacs(archive, folder, export_dicom(archive.output, str(folder)))
