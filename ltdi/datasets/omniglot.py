"""Omniglot: 1,623 handwritten characters of 50 alphabets, drawn once each by 20 people.

Lake, Salakhutdinov & Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 350 (2015). https://github.com/brendenlake/omniglot
"""

from collections import defaultdict
from pathlib import Path

import torch

from ltdi.datasets.image_files import find_images, read_images
from ltdi.datasets.images import SPLITS, ImageSet
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator

SIZE = 28
CHARACTERS = {"images_background": 964, "images_evaluation": 659}
N_IMAGES = 20
SPLIT_SIZES = (800, 400, 423)  # of SPLITS
HOW_TO_GET = (
    f"put {' and '.join(CHARACTERS)} there, as folders or as .zip files "
    "(https://github.com/brendenlake/omniglot, folder python)"
)


def load(root: Path, *, download: bool = False) -> dict[str, ImageSet]:
    """Every split as (classes, 20, 1, 28, 28), ink 255 on 0, read from ``root`` or ``root/omniglot-py``.

    Each half of the data may be a folder or a zip. The split is fixed: the classes in the order of
    their names, permuted once and for all, 800 / 400 / 423.
    """
    paths = {name: own for half in files(Path(root), download=download).values() for name, own in half.items()}
    names = sorted(paths)
    images = 255 - read_images([path for name in names for path in paths[name]], mode="L", size=SIZE)
    images = images.unflatten(0, (len(names), N_IMAGES))

    order = torch.randperm(len(names), generator=generator(0, "omniglot split"))
    return {
        split: ImageSet.of(images[chosen], tuple(names[i] for i in chosen))
        for split, chosen in zip(SPLITS, order.split(SPLIT_SIZES))
    }


def files(root: Path, *, download: bool = False) -> dict[str, dict[str, list]]:
    """Of both halves the characters by name, e.g. ``Greek/character01``, with the files of their 20 drawings."""
    if download and _find(root) is None:
        _download(root)
    home = locate(root)
    return {half: _classes(home / half) for half in CHARACTERS}


def locate(root: Path) -> Path:
    """The folder that holds both halves.

    Raises:
        InputError: there is none in ``root``; how to get them.
    """
    home = _find(root)
    if home is None:
        raise InputError(_missing(root))
    return home


def _find(root: Path) -> Path | None:
    for home in (root, root / "omniglot-py"):
        if all(_exists(home / half) for half in CHARACTERS):
            return home
    return None


def _exists(half: Path) -> bool:
    return half.is_dir() or half.with_suffix(".zip").is_file()


def _missing(root: Path) -> str:
    absent = [half for half in CHARACTERS if not (_exists(root / half) or _exists(root / "omniglot-py" / half))]
    what = " and no ".join(absent or ["folder with both halves of Omniglot"])
    return f"no {what} in {root} or {root / 'omniglot-py'}; {HOW_TO_GET}, or allow the download"


def _download(root: Path) -> None:
    from torchvision.datasets import Omniglot  # here, because it takes seconds to import and few runs need it

    try:
        for background in (True, False):
            Omniglot(str(root), background=background, download=True)
    except (OSError, RuntimeError) as error:  # no network, no space, a file with a wrong checksum
        raise InputError(f"cannot download Omniglot into {root} ({error}); {HOW_TO_GET}") from error


def _classes(half: Path) -> dict[str, list]:
    """Class name, e.g. ``Greek/character01``, to the files of its 20 images."""
    classes = defaultdict(list)
    for name, path in find_images(half).items():
        classes[name.rpartition("/")[0]].append(path)
    if len(classes) != CHARACTERS[half.name]:
        raise InputError(
            f"{half} (folder or .zip) holds {len(classes)} characters, Omniglot has {CHARACTERS[half.name]} there "
            f"as {half.name}/<alphabet>/<character>/*.png; get it again"
        )
    for name, paths in classes.items():
        if len(paths) != N_IMAGES:
            raise InputError(
                f"{half / name} holds {len(paths)} images, Omniglot has {N_IMAGES} of each character; get it again"
            )
    return classes
