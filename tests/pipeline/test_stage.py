"""The number format that the machine computes in, which every stage shares."""

import pytest
import torch

from ltdi.utils.devices import precision


@pytest.mark.parametrize(
    "avx512, amx, expected",
    [(False, False, torch.float32), (True, False, torch.bfloat16), (False, True, torch.bfloat16)],
)
def test_auto_is_bfloat16_where_the_processor_has_it(monkeypatch, avx512, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert precision("auto", torch.device("cpu")) is expected


@pytest.mark.parametrize("native", [False, True])
def test_auto_on_cuda_asks_the_card_itself(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)
    assert precision("auto", torch.device("cuda")) is (torch.bfloat16 if native else torch.float32)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_named_format_is_taken(name):
    assert precision(name, torch.device("cpu")) is getattr(torch, name)
