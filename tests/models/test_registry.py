"""One table names the families: what else is written per family has an entry for each of them."""

import pytest
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

import lumenspark
from lumenspark import recipe
from lumenspark.inspect import architectures
from lumenspark.model_card import families
from lumenspark.models.registry import FAMILIES


@pytest.mark.parametrize("name", FAMILIES)
def test_the_auto_classes_know_the_family(name: str) -> None:
    family = FAMILIES[name]
    assert family.config.model_type == name
    assert type(AutoConfig.for_model(name)) is family.config
    for auto, expected in (
        (AutoModel, family.backbone),
        (AutoModelForCausalLM, family.language_model),
        (AutoModelForSequenceClassification, family.classifier),
    ):
        assert auto._model_mapping[family.config] is expected


def test_recipes_cards_and_inspection_cover_every_family() -> None:
    assert set(recipe.FAMILIES) == set(families.FAMILIES) == set(FAMILIES)
    assert set(architectures.FAMILIES) >= set(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_classes_of_every_family_are_public(name: str) -> None:
    for part in vars(FAMILIES[name]).values():
        assert getattr(lumenspark, part.__name__) is part
