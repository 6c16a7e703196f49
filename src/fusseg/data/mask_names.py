"""The names that folders and files of masks have in the data sets that people use."""

import re
from collections.abc import Sequence

_FOLDERS = frozenset(
    (
        *("mask", "masks", "label", "labels", "annotation", "annotations", "gt", "gts"),
        *("segmentation", "segmentations", "segmentationclass", "segmentationclassaug"),
        *("segmentationobject", "groundtruth", "groundtruths", "gtfine", "gtcoarse"),
        *("stuffthingmaps", "panoptic", "semantic", "labelmaps"),
    )
)
_FOLDER_ENDING = re.compile(r"(masks?|labels?|annot|annotations?|[ ._-](gt|seg))$")
_IMAGE_FOLDERS = frozenset(("images", "image", "imgs", "img", "jpegimages", "jpgs", "rgb"))
_NO_INDICES = ("object", "instance", "panoptic", "color")

ENDINGS = (
    *("_mask", "-mask", ".mask", "_masks", "_seg", "_segmentation", "_label", "_labels", "_gt"),
    *("_groundtruth", "_annotation", "_L", "_P", "_color_mask"),
)
"""What stands between the stem of an image and the suffix of its mask."""


def is_masks_folder(name: str) -> bool:
    """Tell whether a folder of this name holds labels: `SegmentationClass`, `train_masks`."""
    lower = name.lower()
    plain = re.sub(r"[^a-z0-9]", "", lower)
    return plain in _FOLDERS or _FOLDER_ENDING.search(lower) is not None


def is_images_folder(name: str) -> bool:
    """Tell whether a folder of this name holds images beside a folder of masks."""
    return re.sub(r"[^a-z0-9]", "", name.lower()) in _IMAGE_FOLDERS


def are_no_class_indices(names: Sequence[str]) -> bool:
    """Tell whether masks in folders of these names number objects, or are pictures to look at."""
    return any(word in name.lower() for name in names[-3:] for word in _NO_INDICES)
