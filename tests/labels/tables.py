"""Small invented tables in the true column formats of the data sets; no row is anybody's."""

from pathlib import Path

import pandas as pd

from cxr_ray.config import ManifestConfig
from cxr_ray.labels.manifest import Manifest, read_manifest
from cxr_ray.labels.sources import read_source
from cxr_ray.labels.tables import Labelled

PADCHEST_COLUMNS = [
    *("ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM"),
    *("ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Modality_DICOM", "Manufacturer_DICOM"),
    *("PhotometricInterpretation_DICOM", "PixelRepresentation_DICOM", "PixelAspectRatio_DICOM"),
    *("SpatialResolution_DICOM", "BitsStored_DICOM", "WindowCenter_DICOM", "WindowWidth_DICOM", "Rows_DICOM"),
    *("Columns_DICOM", "XRayTubeCurrent_DICOM", "Exposure_DICOM", "ExposureInuAs_DICOM", "ExposureTime"),
    *("RelativeXRayExposure_DICOM", "ReportID", "Report", "MethodLabel", "Labels", "Localizations"),
    *("LabelsLocalizationsBySentence", "labelCUIS", "LocalizationsCUIS"),
]

# The published file of 160K has no roots; the later one of BIMCV has. Terms as in both, counts invented.
TREE = """\
normal [CUI:C0205307, counts:9, 9]\\\\
exclude [counts:2, 2]\\\\
radiological finding [CUI:C0436485, counts:0, 40]\\\\
├── calcified densities [CUI:C2203586, counts:1, 4]\\\\
│   ├── calcified granuloma [CUI:C0333404, counts:3, 3]\\\\
│   └── calcified adenopathy [counts:0, 0]\\\\
│       └── calcified mediastinal adenopathy [counts:0, 0]\\\\
├── granuloma [CUI:C0235557, counts:0, 3]\\\\
│   └── calcified granuloma [CUI:C0333404, counts:3, 3]\\\\
└── NSG tube [counts:2, 2]\\\\
differential diagnosis [counts:0, 5]\\\\
├── pneumonia [CUI:C0032285, counts:4, 5]\\\\
│   └── atypical pneumonia [CUI:C1412002, counts:1, 1]\\\\
└── COPD signs [CUI:C0024117, counts:1, 1]\\\\
localization [counts:0, 8]\\\\
└── bone [CUI:C0262950, counts:8, 8]\\\\
"""

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
CHEXPERT_HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
MIMIC_HEADER = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,"
    "Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
)
METADATA_HEADER = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
)


def write(path: Path, *lines: str) -> str:
    """A text file of lines; returns its path."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def write_padchest(path: Path, rows: list[dict[str, object]]) -> str:
    """PadChest's CSV with its unnamed first column; what a row does not say is filled in."""
    defaults = {
        "ImageDir": 0,
        "StudyDate_DICOM": 20140315,
        "PatientBirth": 1950.0,
        "PatientSex_DICOM": "F",
        "Projection": "PA",
        "Manufacturer_DICOM": "PhilipsMedicalSystems",
        "MethodLabel": "Physician",
        "Localizations": "['loc basal', 'loc right']",
        "labelCUIS": "['C0032227' 'C0018800']",
    }
    table = pd.DataFrame([{**defaults, **row} for row in rows], columns=PADCHEST_COLUMNS)
    table.to_csv(path)
    return str(path)


def source(name: str, path: str, **settings: object) -> Labelled:
    """A data set in the common form."""
    return read_source(ManifestConfig.model_validate({"source": name, "path": path, **settings}))


def manifest(name: str, path: str, *, seed: int = 0, **settings: object) -> Manifest:
    """The whole way to a manifest. Images are named by an address that is not looked up."""
    config = {"source": name, "path": path, "image_root": "s3://bucket/films", "one_class": "allow", **settings}
    return read_manifest(ManifestConfig.model_validate(config), seed=seed)
