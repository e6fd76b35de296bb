"""The package itself offers the few names that a script needs, loaded when they are used."""

import pytest

import bapo
import bapo.config
import bapo.reporting
import bapo.training


def test_every_public_name_is_the_one_of_its_room():
    assert bapo.Recipe is bapo.config.Recipe
    assert bapo.load_recipe is bapo.config.load_recipe
    assert bapo.resolve_recipe is bapo.config.resolve_recipe
    assert bapo.train is bapo.training.train
    assert bapo.write_report is bapo.reporting.write_report
    assert len(bapo.__all__) == 5


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'bapo' has no attribute 'trian'"):
        bapo.trian  # noqa: B018
