"""Settings of the labelled table: where it is, whose format it has, what its labels mean."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cxr_ray.config.section import Section

Source = Literal["csv", "padchest", "nih14", "chexpert", "mimic", "vindr"]


Uncertain = Literal["ignore", "zeros", "ones"]


# Which settings belong to which data sets; for any other they are a mistake worth a sentence.
_BELONGS: dict[str, tuple[Source, ...]] = {
    "uri_column": ("csv",),
    "patient_column": ("csv",),
    "part_column": ("csv",),
    "label_column": ("csv",),
    "label_separator": ("csv",),
    "sex_column": ("csv",),
    "age_column": ("csv",),
    "view_column": ("csv",),
    "manufacturer_column": ("csv",),
    "tree_path": ("padchest",),
    "train_list": ("nih14",),
    "test_list": ("nih14",),
    "test_path": ("chexpert", "vindr"),
    "metadata_path": ("mimic",),
    "split_path": ("mimic",),
    "boxes_path": ("nih14", "vindr"),
    "test_boxes_path": ("vindr",),
    "uncertain": ("csv", "chexpert", "mimic"),
    "uncertain_findings": ("csv", "chexpert", "mimic"),
    "unmentioned": ("chexpert", "mimic"),
    "consensus": ("vindr",),
    "views": ("csv", "padchest", "nih14", "chexpert", "mimic"),
}


# Which have no effect where another one is set.
_INSTEAD = {
    "uri_column": "layout",
    "uncertain": "label_column",
    "uncertain_findings": "label_column",
}


class ManifestConfig(Section):
    """Where the labelled images are and what the columns mean."""

    source: Source = Field("csv", description="Data set whose tables are read as published; csv: a table of your own.")
    path: str = Field(
        description="The table, CSV or Parquet: one row per image (csv), PadChest's labels, NIH's Data_Entry_2017,"
        " CheXpert's train.csv, MIMIC's chexpert.csv.gz, or VinDr's image_labels_train.csv or annotations_train.csv."
    )
    image_root: str | None = Field(
        None, description="Folder or s3:// prefix of relative images; None: the file's folder."
    )
    layout: str | None = Field(
        None,
        description="Path of an image below image_root, columns of the table in braces, e.g. '{ImageDir}/{ImageID}';"
        " None: as the data set is published.",
    )
    uri_column: str = Field("uri", description="Column with the image: absolute, s3://, or relative to image_root.")
    patient_column: str = Field("patient_id", description="Column that identifies the patient.")
    part_column: str | None = Field(None, description="Column with train, validation or test; None: split by patient.")
    label_column: str | None = Field(
        None, description="Column with a list of what is present; None: one column per finding. A blank is not stated."
    )
    label_separator: str = Field("|", min_length=1, description="What stands between the names of such a list.")
    sex_column: str | None = Field(None, description="Column with F or M, for subgroups.")
    age_column: str | None = Field(None, description="Column with the age in years, for subgroups.")
    view_column: str | None = Field(None, description="Column with the view, for `views` and for subgroups.")
    manufacturer_column: str | None = Field(None, description="Column with the manufacturer, for subgroups.")
    tree_path: str | None = Field(
        None, description="PadChest's tree_term_CUI_counts file: labels are grouped into its top-level terms."
    )
    train_list: str | None = Field(None, description="NIH's train_val_list.txt; with test_list the official split.")
    test_list: str | None = Field(None, description="NIH's test_list.txt.")
    test_path: str | None = Field(
        None, description="Official test labels: CheXpert's valid.csv, VinDr's image_labels_test.csv."
    )
    metadata_path: str | None = Field(None, description="MIMIC's metadata.csv.gz, with the views.")
    split_path: str | None = Field(None, description="MIMIC's split.csv.gz; None: split by patient.")
    boxes_path: str | None = Field(None, description="NIH's BBox_List_2017.csv or VinDr's annotations_train.csv.")
    test_boxes_path: str | None = Field(None, description="VinDr's annotations_test.csv.")
    findings: tuple[str, ...] = Field(
        (),
        description="Findings in the order of the outputs; required for csv. Empty: those of the data set; for PadChest"
        " the paper's 35, or with tree_path all top-level terms.",
    )
    uncertain: Uncertain | None = Field(
        None, description="What -1 means: not stated, 0 or 1. None: not stated in CheXpert and MIMIC, refused in a csv."
    )
    uncertain_findings: dict[str, Uncertain] = Field(
        default_factory=dict, description="The same for single findings, e.g. {Edema: ones, Consolidation: zeros}."
    )
    unmentioned: Literal["ignore", "zeros"] = Field(
        "ignore",
        description="What a blank of CheXpert and MIMIC means: not stated, or 0 as in Irvin et al. 2019. Where"
        " No Finding is 1 a blank is always 0, but for Support Devices.",
    )
    consensus: Literal["majority", "any", "all"] = Field(
        "majority", description="When VinDr's readers make a finding present; a tie of the majority is not stated."
    )
    views: tuple[str, ...] | None = Field(
        None,
        description="Views that are kept, as the table spells them. None: PA of PadChest, AP and PA of CheXpert and"
        " MIMIC, all of the others; an empty list: all.",
    )
    min_images: int = Field(0, ge=0, description="A finding with fewer positive images is left out (the paper: 200).")
    require_finding: bool = Field(
        False, description="Leave out images on which none of the findings is present, as the paper does."
    )
    one_class: Literal["refuse", "allow"] = Field(
        "refuse", description="A finding that is never, or always, present in train or validation."
    )
    shares: tuple[float, float, float] = Field(
        (0.7, 0.1, 0.2), description="Shares of train, validation and test when the project splits by patient."
    )
    max_unreadable: float = Field(0.0, ge=0.0, lt=1.0, description="Share of images that may fail to decode.")

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if not self.findings and self.source == "csv":
            raise ValueError("findings must name at least one column")
        repeated = sorted({name for name in self.findings if self.findings.count(name) > 1})
        if repeated:
            raise ValueError(f"findings are named twice: {', '.join(repeated)}")
        if abs(sum(self.shares) - 1.0) > 1e-6 or min(self.shares) < 0.0 or min(self.shares[:2]) == 0.0:
            raise ValueError(f"shares must be positive for train and validation and add up to 1, not {self.shares}")
        return self

    @model_validator(mode="after")
    def _belongs(self) -> Self:
        for name, sources in _BELONGS.items():
            if self._is_set(name) and self.source not in sources:
                raise ValueError(
                    f"{name} belongs to the source {' or '.join(sources)}, not to {self.source}; remove it"
                )
        for name, other in _INSTEAD.items():
            if self._is_set(name) and self._is_set(other):
                raise ValueError(f"{name} has no effect beside {other}; remove one of them")
        if self.source == "csv" and self._is_set("label_separator") and self.label_column is None:
            raise ValueError("label_separator needs label_column, the column with the lists")
        if self.source == "mimic" and self.metadata_path is None:
            raise ValueError("the source mimic needs metadata_path, the table mimic-cxr-2.0.0-metadata.csv.gz")
        if (self.train_list is None) != (self.test_list is None):
            raise ValueError("train_list and test_list make the official split together; name both or none")
        if self.source == "csv" and self.views and self.view_column is None:
            raise ValueError("views of a csv need view_column, the column that states the view")
        if self.layout is not None and "{" not in self.layout:
            raise ValueError(f"layout must name a column in braces, e.g. '{{ImageID}}', not {self.layout!r}")
        return self

    def _is_set(self, name: str) -> bool:
        """Whether a setting differs from its default."""
        return bool(getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True))
