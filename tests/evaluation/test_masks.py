import numpy as np
import pytest
from PIL import Image

from cxr_ray.errors import ManifestError
from cxr_ray.evaluation.localisation.masks import ColumnMasks, FolderMasks


def test_folder_masks_are_found_by_finding_and_name(tmp_path):
    mask = np.zeros((9, 7), np.uint8)
    mask[3, 4] = 1
    (tmp_path / "Pleural_Effusion").mkdir()
    (tmp_path / "Mass").mkdir()
    Image.fromarray(mask).save(tmp_path / "Pleural_Effusion" / "a.png")
    Image.fromarray(mask * 0).save(tmp_path / "Mass" / "a.png")
    masks = FolderMasks(tmp_path, uris=["s3://b/x/a.dcm", "s3://b/x/b.dcm"], findings=("Mass", "Pleural Effusion"))
    assert set(masks.uris) == {"s3://b/x/a.dcm"}
    assert list(masks("s3://b/x/a.dcm")) == ["Pleural Effusion"]
    np.testing.assert_array_equal(masks("s3://b/x/a.dcm")["Pleural Effusion"], mask > 0)
    assert masks("s3://b/x/b.dcm") == {}


def test_masks_that_are_not_there_or_no_picture_are_one_sentence(tmp_path):
    with pytest.raises(ManifestError, match=r"holds no mask FINDING/NAME.png .* such as Mass/a.png"):
        FolderMasks(tmp_path, uris=["a.dcm"], findings=("Mass",))
    (tmp_path / "labels.csv").write_text("uri,masks\na.png,a_mask.png\nb.png,\n")
    (tmp_path / "a_mask.png").write_bytes(b"no picture")
    masks = ColumnMasks(str(tmp_path / "labels.csv"))
    (uri,) = masks.uris
    with pytest.raises(ManifestError, match=r"a_mask\.png cannot be read as a picture"):
        masks(uri)
    (tmp_path / "without.csv").write_text("uri,Mass\na.png,1\n")
    with pytest.raises(ManifestError, match="no column 'masks'"):
        ColumnMasks(str(tmp_path / "without.csv"))
