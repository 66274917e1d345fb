"""A head with all that it stands on as one program: images in, class probabilities out, without this package.

The program is torch's (``torch.export``, read back by ``torch.export.load``) or ONNX. Both take images at the run's
size as a file shows them, any number at a time, and carry what a caller has to know as metadata: classes, size, type.
"""

import io
import json
import warnings
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltdi.datasets import DATASETS
from ltdi.inference.head import Head
from ltdi.store import write_bytes
from ltdi.utils.errors import InputError

DTYPES = {"uint8": torch.uint8, "float32": torch.float32}
FACTS = "ltdi.json"
"""Where a torch program's archive has its metadata."""


class Program(nn.Module):
    """Images (M, channels, size, size), uint8 from 0 to 255 or floats from 0 to 1, as a file shows them -> the
    probabilities (M, N) of a head's classes.

    Raises:
        InputError: the head's method makes more than a head.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head.to_module()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images).softmax(-1)


def facts_of(head: Head, images: str) -> dict[str, Any]:
    """What a program's caller has to know."""
    mode, size = DATASETS[head.extractor.data_set].mode, head.extractor.size
    return {
        "classes": list(head.classes),
        "method": head.method,
        "shots": list(head.shots),
        "mode": mode,
        "size": size,
        "images": images,
        "input": f"images (M, {len(mode)}, {size}, {size}) {images}, as a file shows them in PIL's mode {mode}",
        "output": f"probabilities (M, {len(head.classes)}) float32",
    }


def exported(head: Head, images: str) -> torch.export.ExportedProgram:
    """The program of a head for images of that type, any number of them."""
    facts = facts_of(head, images)
    # of 2, because 1 would be taken for the only number that there is
    example = torch.zeros(2, len(facts["mode"]), facts["size"], facts["size"], dtype=DTYPES[images])
    return torch.export.export(Program(head), (example,), dynamic_shapes=({0: torch.export.Dim("M", min=1)},))


def write_torch(head: Head, file: Path, *, images: str) -> None:
    """As torch's own archive, a .pt2."""
    content = io.BytesIO()
    facts = json.dumps(facts_of(head, images))
    torch.export.save(exported(head, images), content, extra_files={FACTS: facts})
    write_bytes(file, content.getvalue())


def write_onnx(head: Head, file: Path, *, images: str) -> None:
    """As ONNX.

    Raises:
        InputError: what it takes is not installed.
    """
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise InputError(
            f"--program onnx needs {' and '.join(missing)}, not installed here; run pip install 'ltdi[export]', or"
            " name --program torch"
        )
    # the exporter tells of its own passes, and nothing that a caller could change
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            exported(head, images), input_names=["images"], output_names=["probabilities"], verbose=False
        )
    assert made is not None
    model = made.model_proto
    for name, value in facts_of(head, images).items():
        model.metadata_props.add(key=name, value=value if isinstance(value, str) else json.dumps(value))
    write_bytes(file, model.SerializeToString())


PROGRAMS = {"torch": write_torch, "onnx": write_onnx}
