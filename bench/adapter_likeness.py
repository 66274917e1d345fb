"""What the frozen model knows of pairs of texts without any adapter: how alike it finds the two apart."""

from torch import Tensor

from bench.adapter_data import Held
from ltdi.bodies.sentence_encoder import sentence_encoder
from ltdi.inference.adapter_run import AdapterRun


def of_likeness(run: AdapterRun, held: Held, seed: int) -> dict[str, float]:
    """Accuracies of the cosine of a pair's embeddings, cut in the middle of the classes' means over the few examples
    ("likeness"), or so that the share of train's pairs above is that of their labels ("likeness_counted"). Nothing of
    single texts."""
    if len(held.texts["train"][0][0]) != 2:
        return {}
    train, dev = (_likeness(run, held.texts[part][0]) for part in ("train", "dev"))
    labels, asked = held.train["labels"][0].to(train.device), held.dev["labels"][0].to(train.device)
    few = run.few(held.train, seed=seed).to(train.device)
    low, high = train[few].mean(1).tolist()
    cuts = {"likeness": (low + high) / 2, "likeness_counted": train.quantile(1 - labels.float().mean()).item()}
    return {what: ((dev > cut) == (asked == 1)).float().mean().item() for what, cut in cuts.items()}


def _likeness(run: AdapterRun, texts: list[tuple[str, ...]]) -> Tensor:
    """(M,)"""
    first, second = (sentence_encoder(run.learner.body)([each[j] for each in texts]) for j in (0, 1))
    return (first * second).sum(-1)
