"""Synthetic chest radiographs with known findings: demo data and the tests' ground truth."""

from cxr_ray.images.phantom.archive import plan_archive, read_masks, write_archive
from cxr_ray.images.phantom.drawing import Phantom, draw_film, make_phantom
from cxr_ray.images.phantom.files import ENCODINGS, Encoding, Item, encode
from cxr_ray.images.phantom.lesions import FINDINGS

__all__ = [
    "ENCODINGS",
    "FINDINGS",
    "Encoding",
    "Item",
    "Phantom",
    "draw_film",
    "encode",
    "make_phantom",
    "plan_archive",
    "read_masks",
    "write_archive",
]
