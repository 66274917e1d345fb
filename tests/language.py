"""A tiny language model, drawn at random, in a folder of transformers: its tokenizer knows the words w0, w1, …"""

from pathlib import Path

import torch

N_WORDS = 60
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_bert(
    folder: Path, *, depth: int = 3, width: int = 32, kind: str = "bert", pooler: bool = True, seed: int = 0
) -> str:
    """A model of so many layers; ``kind`` is "bert", or "roberta", whose head has two layers. Without ``pooler`` the
    checkpoint lacks what stands before the head."""
    import transformers

    folder.mkdir(parents=True)
    words = [*SPECIAL, *(f"w{j}" for j in range(N_WORDS))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": 2, "intermediate_size": 2 * width}
    limits = {"vocab_size": len(words), "max_position_embeddings": 40, "pad_token_id": 0}
    config = {"bert": transformers.BertConfig, "roberta": transformers.RobertaConfig}[kind](**sizes, **limits)
    types = {"bert": transformers.BertModel, "roberta": transformers.RobertaModel}
    torch.manual_seed(seed)
    model = types[kind](config, add_pooling_layer=pooler)
    for parameter in model.parameters():  # as drawn, a layer changes next to nothing
        parameter.data.mul_(4)
    model.save_pretrained(folder)
    return str(folder)


def sentence(words: torch.Tensor) -> str:
    return " ".join(f"w{int(j)}" for j in words)
