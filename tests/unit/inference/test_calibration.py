"""Temperatures, and the expected calibration error."""

import pytest
import torch

from ltdi.inference.calibration import expected_calibration_error, fit_temperature, temperature_for


@pytest.fixture(scope="module")
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (M, N) and labels (M,) that are drawn from their probabilities."""
    logits = 2 * torch.randn(20_000, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(1))[:, 0]
    return logits, labels


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_the_temperature_that_undoes_a_factor_is_found(factor, drawn):
    logits, labels = drawn
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.05)


def test_what_is_calibrated_has_no_error_and_too_much_confidence_has(drawn):
    logits, labels = drawn
    assert expected_calibration_error(logits.softmax(1), labels) < 0.02
    assert expected_calibration_error((3 * logits).softmax(1), labels) > 0.15
    certain = torch.eye(4)
    assert expected_calibration_error(certain, [0, 1, 2, 3]) == 0
    assert expected_calibration_error(certain.numpy(), [0, 1, 0, 0]) == pytest.approx(0.5)


def test_the_temperature_of_the_nearest_numbers_of_classes_and_images():
    numbers = {(5, 1): 1.5, (5, 5): 0.5, (20, 1): 3.0}
    of = [{"n_way": n_way, "n_shot": n_shot, "temperature": t} for (n_way, n_shot), t in numbers.items()]
    assert [temperature_for(of, shots) for shots in ([1, 1], [2, 2], [3, 3], [50, 40])] == [1.5, 1.5, 0.5, 0.5]
    assert temperature_for(of, [5] * 30) == 3 and temperature_for(of, [1] * 9) == 1.5
    assert temperature_for([], [1, 1]) == temperature_for(of, [0, 0]) == 1
