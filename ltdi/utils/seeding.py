"""The only source of randomness: every generator is named after what it is for."""

import hashlib

import torch


def generator(seed: int, *names: object, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator whose stream depends on ``seed`` and ``names`` alone, e.g. ``generator(0, "task", 17)``.

    Streams of different names are independent, so that work can be cut, reordered or resumed
    without touching what the rest draws.
    """
    digest = hashlib.sha256(repr((seed, *map(str, names))).encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def seed_globally(seed: int) -> None:
    """What torch draws without a generator, on every device in use, as ``torch.manual_seed`` does. That also notes, for
    devices that are not, where it was called from: as long as a pass through a small network."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def pick(counts: torch.Tensor, n: int, stream: torch.Generator) -> torch.Tensor:
    """In random order ``n`` different numbers below each of ``counts`` (…,), −1 where there are no more: (…, n)."""
    counts = counts.cpu()
    most = int(counts.max())
    order = torch.rand(*counts.shape, most, generator=stream)
    if int(counts.min()) < most:  # what is not there comes last
        order = torch.where(torch.arange(most) < counts[..., None], order, 2.0)
    chosen = order.argsort(-1)[..., :n]
    if chosen.shape[-1] < n:
        chosen = torch.nn.functional.pad(chosen, (0, n - chosen.shape[-1]), value=most)
    return torch.where(chosen < counts[..., None], chosen, -1)


def drawn_images(
    counts: torch.Tensor, n_shot: int, n_query: int, stream: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Support (…, n_shot) and query (…, n_query) images of classes of so many (…,), −1 where there are no more. Of a
    class of too few, a fair share of what it has is asked, one at least."""
    chosen = pick(counts, n_shot + n_query, stream)
    if bool((chosen >= 0).all()):
        return chosen[..., :n_shot], chosen[..., n_shot:]
    counts = counts.cpu()[..., None]
    shots = (counts * n_shot / (n_shot + n_query)).ceil().clamp(1, n_shot).minimum(counts - 1).long()
    shots = torch.where(counts >= n_shot + n_query, n_shot, shots)
    support = torch.where(torch.arange(n_shot) < shots, chosen[..., :n_shot], -1)
    places = shots + torch.arange(n_query)
    # past what there is, −1 stands in ``chosen``
    return support, chosen.take_along_dim(places.clamp(max=n_shot + n_query - 1), -1)
