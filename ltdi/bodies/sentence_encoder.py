"""Names and descriptions -> embeddings (…, E) of a frozen text encoder of ``transformers``.

What a name is put into, ``prompts.json``, is a file of its own: every sentence is embedded to unit length, their mean
is the name's embedding, of unit length again.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ltdi.store import Cache
from ltdi.store.code_digest import name_of
from ltdi.utils.devices import device
from ltdi.utils.errors import InputError
from ltdi.utils.nn import masked_mean
from ltdi.utils.plain_files import text_of

PROMPTS: dict[str, list[str]] = {
    name: templates
    for name, templates in json.loads(Path(__file__).with_name("prompts.json").read_text(encoding="utf-8")).items()
    if name != "version"
}
SENTENCES_TOGETHER = 64


class SentenceEncoder:
    """An encoder of ``transformers`` from a local folder or by its name on the hub.

    ``ltdi.bodies.language_model`` is another: that one is cut at a layer to be adapted and needs a classification
    head, which CLIP and other models that embed sentences do not have.

    Sentences are embedded as sentence encoders do, by the mean over their tokens at unit length; by the encoder's own
    projection where it has one that pairs texts with images (CLIP).

    Raises:
        InputError: transformers is not installed, or there is no such encoder.
    """

    def __init__(self, source: str | Path) -> None:
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise InputError(
                "names are embedded by the package transformers, which is not installed; pip install 'ltdi[names]'"
            ) from error
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(source))
            self.model = AutoModel.from_pretrained(str(source), dtype=torch.float32).eval().requires_grad_(False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{source}: no text encoder that transformers reads ({' '.join(str(error).split())[:200]}); name a"
                " folder that holds one, or one of the hub"
            ) from error

    @property
    def facts(self) -> tuple[Any, ...]:
        """All that decides its embeddings."""
        config = {key: value for key, value in self.model.config.to_dict().items() if not key.startswith("_")}
        return self.model.state_dict(), json.loads(json.dumps(config, default=str)), self.tokenizer.get_vocab()

    @torch.no_grad()
    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """(M, E), of unit length."""
        return torch.cat(
            [
                self._embedded(sentences[first : first + SENTENCES_TOGETHER])
                for first in range(0, len(sentences), SENTENCES_TOGETHER)
            ]
        )

    def _embedded(self, sentences: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(list(sentences), padding=True, truncation=True, return_tensors="pt").to(device())
        self.model.to(device())
        if hasattr(self.model, "get_text_features"):
            found = self.model.get_text_features(**tokens)
            return F.normalize(found if isinstance(found, Tensor) else found.pooler_output, dim=-1).cpu()
        states = self.model(**tokens).last_hidden_state
        return F.normalize(masked_mean(states, tokens["attention_mask"].to(states)), dim=-1).cpu()


@cache
def sentence_encoder(source: str) -> SentenceEncoder:
    """The encoder, loaded once in a process."""
    return SentenceEncoder(source)


def sentences_of(name: str, prompts: str, descriptions: Mapping[str, str] | None = None) -> list[str]:
    """All that is said of a class: its name in every prompt of the set, and its description where there is one.

    Raises:
        InputError: there are no prompts of that name.
    """
    if prompts not in PROMPTS:
        raise InputError(f"prompts = {prompts!r} are unknown; allowed: {', '.join(PROMPTS)}")
    described = (descriptions or {}).get(name)
    return [template.format(name) for template in PROMPTS[prompts]] + ([f"{name}: {described}"] if described else [])


def embed_names(
    source: str | Path, names: Sequence[str], *, prompts: str, descriptions: Mapping[str, str] | None = None
) -> Tensor:
    """A row of unit length for each name (len(names), E), from the cache where it is there.

    Raises:
        InputError: there is no such encoder, no such set of prompts, or a name is empty.
    """
    if any(not name.strip() for name in names):
        raise InputError("a class's name is empty; give each one")
    said = [sentences_of(name, prompts, descriptions) for name in names]
    encoder, store = sentence_encoder(str(source)), Cache("texts")
    key = name_of("texts", *encoder.facts, said, code=("ltdi.bodies.sentence_encoder",))
    if found := store.find(key):
        return found[1]["texts"]
    rows = encoder([sentence for each in said for sentence in each]).split([len(each) for each in said])
    texts = F.normalize(torch.stack([row.mean(0) for row in rows]), dim=-1)
    store.keep(key, {"texts": texts}, {"names": list(names)})
    return texts


def read_descriptions(file: Path) -> dict[str, str]:
    """A description a line behind its class's name and a tab.

    Raises:
        InputError: the file is missing or cannot be read, or a line has no tab.
    """
    if not file.exists():
        raise InputError(f"{file}: no such file; name one that holds a name, a tab and a description a line")
    found: dict[str, str] = {}
    for number, line in enumerate(text_of(file).splitlines(), 1):
        name, tab, description = line.partition("\t")
        if line.strip() and not tab:
            raise InputError(f"{file}: line {number} has no tab; write a name, a tab and a description")
        found |= {name.strip(): description.strip()} if line.strip() else {}
    return found
