"""How the files of a place are laid out: class folders, images beside masks, samples of shards.

Each function looks at names alone and gives the files with their targets, or None where the names
are not of its kind.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from toque import checks
from toque.data import strays, targets
from toque.data.files import Listed
from toque.data.given import PARTS
from toque.data.places import Place
from toque.data.strays import is_image
from toque.data.targets import Targets, Task
from toque.data.written import of_values

IMAGES = ("images", "image", "imgs", "img")
MASKS = ("masks", "mask", "labels", "annotations")
CLASS_FILE = "classes.txt"
_MASK_SUFFIXES = ("seg.png", "mask.png", "seg", "mask")
_LABEL_SUFFIXES = ("cls", "cls2", "index", "id", "json", "txt")


def without_part(names: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Names without a leading train/, val/ or test/, and the part of each; None where some have
    none, or where all are of one part.

    Example: >>> without_part(["train/cat/1.jpg", "valid/cat/2.jpg"])
             (["cat/1.jpg", "cat/2.jpg"], ["train", "val"])
    """
    heads = [name.partition("/") for name in names]
    parts = [PARTS.get(head.lower(), "") for head, _, _ in heads]
    if not all(parts):
        return list(names), None
    rest = [tail for _, _, tail in heads]
    return rest, parts if len(set(parts)) > 1 else None


def class_names(place: Place, names: Sequence[str]) -> tuple[str, ...]:
    """The lines of classes.txt, one class a line; none where there is no such file."""
    if CLASS_FILE not in names:
        return ()
    text = place.read(CLASS_FILE).decode("utf-8-sig", errors="replace")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def beside_masks(place: Place, names: Sequence[str]) -> Listed | None:
    """images/NAME.jpg and masks/NAME.png (or labels/), also below train/ and val/.

    Raises: ValueError: images without a mask, masks without an image
    """
    rest, _ = without_part([name for name in names if name != CLASS_FILE])
    kinds = {name.split("/", 1)[0].lower() for name in rest if "/" in name}
    image_folder = next((name for name in IMAGES if name in kinds), None)
    mask_folder = next((name for name in MASKS if name in kinds), None)
    if image_folder is None or mask_folder is None:
        return None
    found: dict[str, dict[str, str]] = {"image": {}, "mask": {}}
    images, passed = strays.parted(names, place.path)
    kinds_of_folder = {image_folder, mask_folder}
    others = [name for name in passed if kinds_of_folder & set(name.lower().split("/")[:-1])]
    for name in images:
        path = PurePosixPath(name)
        folders = [one.lower() for one in path.parts[:-1]]
        at = next((n for n, one in enumerate(folders) if one in kinds_of_folder), None)
        if at is None:
            continue
        kind = "image" if path.parts[at].lower() == image_folder else "mask"
        key = "/".join((*path.parts[:at], *path.parts[at + 1 : -1], path.stem))
        if key in found[kind]:
            raise checks.invalid(
                "data", f"the {kind}s", "of different names, whatever their kind of file",
                f"{found[kind][key]} and {name}", "Rename or remove one of them.",
            )  # fmt: skip
        found[kind][key] = name
    _check_pairs(place, found["image"], found["mask"], mask_folder)
    keys = sorted(found["image"])
    _, parts = without_part(keys)
    return Listed(
        place,
        [found["image"][key] for key in keys],
        targets.of_masks(len(keys), class_names(place, names)),
        masks=[found["mask"][key] for key in keys],
        parts=parts,
        notes=strays.notes(others),
    )


def _check_pairs(
    place: Place, images: dict[str, str], masks: dict[str, str], mask_folder: str
) -> None:
    for ours, others, what, other in (
        (images, masks, "image", "mask"), (masks, images, "mask", "image"),
    ):  # fmt: skip
        alone = [name for key, name in sorted(ours.items()) if key not in others]
        if alone:
            raise checks.invalid(
                "data", f"every {what} in {place.where}", f"with a {other} of its name",
                f"{checks.first(alone, 1)} without one",
                f"Add the {other} (as in {mask_folder}/NAME.png), or remove the {what}.",
            )  # fmt: skip


def class_folders(place: Place, names: Sequence[str]) -> Listed | None:
    """CLASS/*.jpg, also below train/ and val/; for places that are no folder of this machine."""
    images, passed = strays.parted(names, _nowhere)
    rest, parts = without_part(images)
    if not images or not all("/" in name for name in rest):
        return None
    classes = sorted({name.split("/", 1)[0] for name in rest})
    if len(classes) < 2:
        raise checks.invalid(
            "data", "the number of classes", "at least 2", f"only {classes[0]} in {place.where}",
            "Add a folder of images for another class.",
        )  # fmt: skip
    numbers = {name: number for number, name in enumerate(classes)}
    values = np.array([numbers[name.split("/", 1)[0]] for name in rest], dtype=np.int64)
    return Listed(
        place, images, Targets("classification", tuple(classes), values), parts=parts,
        notes=strays.notes([name for name in passed if "/" in name]),
    )  # fmt: skip


def _nowhere(name: str) -> Path | None:
    """Where a file of another machine lies: outside our own folders its ending must do."""
    return None


def samples(
    place: Place, names: Sequence[str], part_of: Callable[[str], str], task: Task | None
) -> Listed:
    """Files that belong together by the name before the first dot, as in WebDataset: KEY.jpg with
    KEY.cls (a number or a class), KEY.json ({"label": ...}), or KEY.seg.png (a mask).

    Args:   part_of: "train", "val", "test" or "" for a file
    Raises: ValueError: samples without an image or a label, or of several kinds
    """
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        folder, slash, last = name.rpartition("/")
        key, _, suffix = last.partition(".")
        groups[f"{folder}{slash}{key}"][suffix.lower()] = name
    images, masks, labels, parts = [], [], [], []
    for key, files in groups.items():
        if set(files) <= {"txt"} and key == CLASS_FILE.partition(".")[0]:
            continue
        mask = next((files[one] for one in _MASK_SUFFIXES if one in files), None)
        image = next((files[s] for s in files if is_image(f"x.{s}") and files[s] != mask), None)
        text = next((one for one in _LABEL_SUFFIXES if one in files), None)
        if image is None or (mask is None and text is None):
            missing = "an image" if image is None else "a label (.cls, .json) or a mask (.seg.png)"
            raise checks.invalid(
                "data", f"every sample in {place.where}", "an image with its label or mask",
                f"{key} without {missing}", "Write the shards anew, complete.",
            )  # fmt: skip
        images.append(image)
        parts.append(part_of(image))
        if mask is not None:
            masks.append(mask)
        else:
            assert text is not None
            labels.append(_label(place, files[text], text))
    if not images:
        raise checks.invalid(
            "data", place.where, "samples such as 000.jpg with 000.cls", "none", "Check the shards."
        )
    if masks and labels:
        raise checks.invalid(
            "data", f"the samples in {place.where}", "of one kind", "some with masks, some with "
            "labels", "Write them apart.",
        )  # fmt: skip
    found = (
        targets.of_masks(len(images), class_names(place, names))
        if masks
        else of_values(place.where, labels, class_names(place, names), task)
    )
    given = parts if len(set(parts)) > 1 and all(parts) else None
    return Listed(place, images, found, masks=masks or None, parts=given)


def _label(place: Place, name: str, suffix: str) -> object:
    text = place.read(name).decode("utf-8", errors="replace").strip()
    if suffix != "json":
        return text
    try:
        tree = json.loads(text)
        if isinstance(tree, dict):
            tree = next(tree[key] for key in ("label", "labels", "cls", "class") if key in tree)
    except (ValueError, StopIteration, RecursionError):
        raise checks.invalid(
            "data", name, 'JSON with a "label"', text[:60] or "nothing", "Write that sample anew."
        ) from None
    return tree
