"""mini-ImageNet: 100 classes of ImageNet, 64 / 16 / 20, at 84 x 84 pixels.

Vinyals et al., "Matching networks for one shot learning", 2016; the split of Ravi & Larochelle,
"Optimization as a model for few-shot learning", 2017.
"""

from collections import defaultdict
from pathlib import Path

from ltdi.datasets.image_files import find_images, read_images
from ltdi.datasets.images import SPLITS, ImageSet
from ltdi.utils.errors import InputError
from ltdi.utils.plain_files import read_rows

SIZE = 84
TABLES = dict(zip(SPLITS, ("train.csv", "val.csv", "test.csv")))
HOW_TO_GET = (
    "the terms of ImageNet forbid to pass its images on: get ImageNet itself at https://image-net.org, cut it to "
    "mini-ImageNet by the lists of Ravi & Larochelle "
    "(https://github.com/twitter-research/meta-learning-lstm, data/miniImagenet), and put images/ (or images.zip) "
    "beside train.csv, val.csv and test.csv"
)


def load(root: Path, *, download: bool = False, size: int = SIZE) -> dict[str, ImageSet]:
    """Every split as (images, 3, size, size), read from ``root`` or its folder ``mini-imagenet``."""
    splits = files(Path(root), download=download)
    return {split: _read_split(classes, size) for split, classes in splits.items()}


def files(root: Path, *, download: bool = False) -> dict[str, dict[str, list]]:
    """Of the classes of every split by name the files of their images."""
    if download:
        raise InputError(f"mini-ImageNet cannot be downloaded: {HOW_TO_GET} in {root}")
    home = locate(root)
    found = find_images(home / "images")
    return {split: _files_of(home / table, found) for split, table in TABLES.items()}


def locate(root: Path) -> Path:
    """The folder that holds the images.

    Raises:
        InputError: there is none in ``root``; how to get them.
    """
    homes = (root, root / "mini-imagenet", root / "mini_imagenet")
    home = next((home for home in homes if (home / "images").is_dir() or (home / "images.zip").is_file()), None)
    if home is None:
        raise InputError(f"no images or images.zip in {', '.join(map(str, homes))}; {HOW_TO_GET}")
    return home


def _read_split(classes: dict[str, list], size: int) -> ImageSet:
    images = read_images([file for files in classes.values() for file in files], mode="RGB", size=size)
    return ImageSet(images, tuple(classes), tuple(map(len, classes.values())))


def _files_of(table: Path, found: dict) -> dict[str, list]:
    classes = _read_table(table)
    files = [file for files in classes.values() for file in files]
    missing = [file for file in files if file not in found]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(files)} images of {table} are not in {table.parent / 'images'} "
            f"(folder or .zip), the first is {missing[0]!r}; add them, or take their lines out of the table"
        )
    return {name: [found[file] for file in files] for name, files in classes.items()}


def _read_table(table: Path) -> dict[str, list[str]]:
    """Class name to file names, in the order of the table."""
    if not table.is_file():
        raise InputError(f"no {table}; mini-ImageNet needs {', '.join(TABLES.values())} beside its images")
    found = read_rows(table, kind="label")
    if not {"filename", "label"} <= set(found.columns):
        raise InputError(f"{table} has the columns {found.columns}; it must have filename,label")
    classes = defaultdict(list)
    file, label = (found.columns.index(name) for name in ("filename", "label"))
    for row in found.rows:
        classes[row[label]].append(row[file])
    return dict(classes)
