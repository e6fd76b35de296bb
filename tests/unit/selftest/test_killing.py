from functools import reduce
from importlib import import_module

import pytest

from bapo.selftest.killing import POINTS


@pytest.mark.parametrize("point", POINTS)
def test_every_place_where_a_run_may_be_killed_is_there(point):
    module, path, _ = POINTS[point]
    assert callable(reduce(getattr, path.split("."), import_module(module)))
