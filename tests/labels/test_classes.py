"""The class table, by its exact text."""

from cxr_ray.labels.classes import class_table
from tests.labels.tables import manifest, write


def test_class_table_positives_share_of_stated_labels_and_weight(tmp_path):
    parts = ["train"] * 4 + ["validation"] * 2 + ["test"]
    labels = [(1, ""), (0, 1), (0, 0), (0, 0), (1, 0), (0, 1), (1, "")]
    rows = [f"{i}.png,{i},{part},{a},{b}" for i, (part, (a, b)) in enumerate(zip(parts, labels, strict=True))]
    path = write(tmp_path / "t.csv", "uri,patient_id,part,Mass,Pleural Effusion", *rows)
    result = manifest("csv", path, part_column="part", findings=["Mass", "Pleural Effusion"])
    assert class_table(result, [1.7321, 12.0]) == [
        "finding                      train        validation              test   weight",
        "images                   4                 2                 1",
        "Mass                     1  25.00%         1  50.00%         1 100.00%     1.73",
        "Pleural Effusion         1  33.33%         1  50.00%         0       -    12.00",
    ]
