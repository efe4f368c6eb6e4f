"""Losses and logits are what they were: a change of the code that should not move them does not."""

import json

import pytest
import stored_numbers
from stored_numbers import FAMILIES, FILE, MODELS, OBJECTIVES

# In nats. Another order of summation, as on other machines, spreads over 50 steps; with teachers it
# changes a few of their samples too.
TOLERANCES = {"fp32": 1e-3, "bf16": 1e-2}
OF_TEACHERS = 5  # times as much
LOGIT_TOLERANCE = 2e-5

STORED = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def curves() -> dict[str, list[float]]:
    return dict(stored_numbers.curves())


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_of_50_steps(
    curves: dict[str, list[float]], family: str, precision: str, objective: str
) -> None:
    name = f"{family}, {precision}, {objective}"
    if name not in curves:
        pytest.skip("this CPU has no fast bfloat16")
    stored = STORED["losses"][name]
    assert stored[0] > stored[49] + 0.3  # it has learned, so the curve says something
    tolerance = TOLERANCES[precision] * (OF_TEACHERS if objective == "teachers" else 1)
    assert curves[name] == pytest.approx(stored, abs=tolerance, rel=0)


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_seeded_models(name: str) -> None:
    found = dict(stored_numbers.logits())[name]
    assert found == pytest.approx(STORED["logits"][name], abs=LOGIT_TOLERANCE, rel=0)
    assert max(found) - min(found) > 0.1
