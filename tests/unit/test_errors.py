"""The error tree: complete in its drawing, and able to cross processes."""

from __future__ import annotations

import pickle

import pytest

from rtvi_actors import errors

pytestmark = pytest.mark.unit

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_each_is_drawn_and_survives_pickling(error: type[errors.RtviActorsError]) -> None:
    assert error.__name__ in str(errors.__doc__)
    made = error("no room", 700) if issubclass(error, errors.CapacityError) else error("no room")
    copy = pickle.loads(pickle.dumps(made))
    assert type(copy) is error
    assert str(copy) == "no room"
    assert copy.args == made.args
    assert (copy.scope, copy.retryable) == (made.scope, made.retryable)
