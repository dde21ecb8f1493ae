import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.stt.plausible import has_loop, is_made_up, is_typical_invention, without_loops

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "no_speech", "log_probability", "made_up"),
    [
        ("", 0.1, -0.1, True),
        (".", 0.95, -0.99, True),
        (". . . . . .", 0.94, -0.08, True),
        ("You", 0.95, -1.69, True),
        ("5", 0.69, -0.75, False),
        ("Ten of clubs.", 0.04, -0.36, False),
        ("Mumbled, but speech was there", 0.2, -1.4, False),
        ("Clear words in a quiet room", 0.9, -0.2, False),
    ],
)
def test_made_up(text, no_speech, log_probability, made_up):
    assert is_made_up(text, no_speech, log_probability) is made_up


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("go forward ten meters", "go forward ten meters"),
        ("no, no, no, stop", "no, no, no, stop"),
        ("very very very very good", "very very very very good"),
        ("the " * 30, "the"),
        ("I said and so on, and so on, And so on. and so", "I said and so on,"),
        ("one two three " * 5 + "four", "one two three four"),
        ("yes " * 9 + "and " + "no " * 9, "yes and no"),
    ],
)
def test_loops_are_cut_to_their_first_round(text, expected):
    assert without_loops(text) == expected
    assert has_loop(text) is (expected != " ".join(text.split()))


@given(st.lists(st.sampled_from(["a", "b", "c", "d."]), max_size=40), st.integers(3, 12))
def test_cutting_keeps_order_and_is_bounded(words, rounds):
    text = " ".join(words)
    cut = without_loops(text).split()
    rest = iter(words)
    assert all(word in rest for word in cut)
    assert len(without_loops("one two three " * rounds).split()) == 3


@pytest.mark.parametrize(
    ("text", "typical"), [("Thank you.", True), (" you", True), ("Thanks for the room.", False), ("Stop!", False)]
)
def test_what_models_like_to_make_up(text, typical):
    assert is_typical_invention(text) is typical
