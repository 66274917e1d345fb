"""Names of classes: which of them a person can tell apart."""

import unicodedata
from collections.abc import Iterable


def different(names: Iterable[str]) -> int:
    """How many of some names look different: an accent may belong to its letter, or be a character behind it, and
    neither blanks at an end nor what has no width are seen."""
    return len(set(map(looks, names)))


def looks(name: str) -> str:
    """What is seen of a name: equal for those that look the same."""
    seen = (each for each in unicodedata.normalize("NFC", name) if unicodedata.category(each) != "Cf")
    return " ".join("".join(seen).split())
