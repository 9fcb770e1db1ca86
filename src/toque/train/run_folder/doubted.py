"""training-doubts.json: the training images whose targets a run's kept weights contradict.

Asked for by toque check --run, shown by toque report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from toque import checks, durable
from toque.train.metrics import Doubt

FILE = "training-doubts.json"
_MOST = 2000


@dataclass(frozen=True)
class Doubted:
    """The doubts about training images.

    images:      how many were looked at
    number:      how many are in doubt
    doubts:      the firmest; of an image that may have several labels, one for each
    kinds:       how many doubts there are of each kind
    cannot_tell: what could not be doubted, and why
    """

    images: int
    number: int
    doubts: tuple[Doubt, ...]
    kinds: Mapping[str, int] = field(default_factory=dict)
    cannot_tell: str = ""


def write(path: Path, found: Doubted, data_fingerprint: str) -> None:
    """Keep them in a run folder, with the data they are about."""
    tree = {
        "data_fingerprint": data_fingerprint,
        "images": found.images,
        "number": found.number,
        "kinds": dict(found.kinds),
        "cannot_tell": found.cannot_tell,
        "doubts": [asdict(one) for one in found.doubts[:_MOST]],
    }
    durable.write(path / FILE, json.dumps(tree, ensure_ascii=False) + "\n")


def read(path: Path, data_fingerprint: str) -> Doubted | None:
    """Those of a run folder; None where it has none about this data.

    Raises: ValueError: a damaged file
    """
    file = path / FILE
    if not file.is_file():
        return None
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        if tree["data_fingerprint"] != data_fingerprint:
            return None
        doubts = tuple(Doubt(**one) for one in tree["doubts"])
        return Doubted(
            int(tree["images"]), int(tree["number"]), doubts, tree.get("kinds", {}),
            tree.get("cannot_tell", ""),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise checks.invalid(
            "report", str(file), "the doubts of a run", f"an error ({error!r})",
            "Delete it, and ask again: toque check DATA --run RUN.",
        ) from None  # fmt: skip
