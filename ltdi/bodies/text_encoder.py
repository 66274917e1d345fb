"""A language model as a frozen body: it stays where it is, and is known by its place and a digest of its weights."""

from torch import nn

from ltdi.bodies.language_model import Encoder, read_encoder
from ltdi.tasks.text_examples import N_CLASSES
from ltdi.utils.errors import InputError


class TextEncoder(nn.Module):
    """The body of runs of adapters, which keep no weights of it: ``ltdi.bodies.language_model`` reads them
    when they are asked for.

    Args:
        body: a folder of transformers, or a name on the hub.
        digest: that its weights must have; "" for any.
    """

    def __init__(self, body: str, digest: str = "") -> None:
        super().__init__()
        self.body, self.digest = body, digest

    @property
    def encoder(self) -> Encoder:
        """
        Raises:
            InputError: it is not there, or not the same any more.
        """
        encoder = read_encoder(self.body, N_CLASSES)
        if self.digest not in ("", encoder.digest):
            raise InputError(f"texts.body = {self.body}: altered since the first stage; run `dvc repro`")
        return encoder
