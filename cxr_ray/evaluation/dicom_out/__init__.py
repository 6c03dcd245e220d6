"""Results for the PACS: structured report, secondary capture and presentation state of scored DICOM images.

naming.py says how objects are called and source.py what is taken from the source file; report.py, capture.py and
state.py each make one kind of object; export.py does a whole score folder. Needs highdicom, the extra `dicom-out`.
"""

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

from cxr_ray.errors import ConfigError

if TYPE_CHECKING:
    from cxr_ray.evaluation.dicom_out.export import Exported


def export_dicom(
    output: str,
    folder: str,
    *,
    ensemble_digest: str | None = None,
    positive: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> "Exported":
    """See export.export_dicom. Raises ConfigError without highdicom."""
    if importlib.util.find_spec("highdicom") is None:
        raise ConfigError("DICOM export needs highdicom, which is not installed: pip install 'cxr-ray[dicom-out]'.")
    from cxr_ray.evaluation.dicom_out import export

    return export.export_dicom(output, folder, ensemble_digest=ensemble_digest, positive=positive, log=log)
