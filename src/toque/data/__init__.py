"""Sources of images, and the loader that turns them into batches."""

from toque.data.arrays import ArraySource
from toque.data.asked import Columns
from toque.data.batch import Batch, Pipeline
from toque.data.checking import Finding, Findings, Item, check
from toque.data.dataset import DatasetSource
from toque.data.decoding import UnreadableImage, decode
from toque.data.elsewhere import is_class_folder
from toque.data.encoded import Encoded
from toque.data.folder import FolderSource, files_below
from toque.data.joined import Joined
from toque.data.labelled import open_labelled
from toque.data.listing import images_below
from toque.data.loader import evaluation_batches, train_batches
from toque.data.opening import open as open  # noqa: A004 - toque.data.open is the name that says it
from toque.data.own import OwnData, own
from toque.data.packed import Packed, PackedSource, damaged_files, pack
from toque.data.part import Part
from toque.data.sampling import Sampling
from toque.data.scan import BadFile
from toque.data.source import Source
from toque.data.splits import Splits
from toque.data.upload import Upload

__all__ = [
    "ArraySource",
    "BadFile",
    "Batch",
    "Columns",
    "DatasetSource",
    "Encoded",
    "Finding",
    "Findings",
    "FolderSource",
    "Item",
    "Joined",
    "OwnData",
    "Packed",
    "PackedSource",
    "Part",
    "Pipeline",
    "Sampling",
    "Source",
    "Splits",
    "UnreadableImage",
    "Upload",
    "check",
    "damaged_files",
    "decode",
    "evaluation_batches",
    "files_below",
    "images_below",
    "is_class_folder",
    "open",
    "open_labelled",
    "own",
    "pack",
    "train_batches",
]
