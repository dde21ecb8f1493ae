"""The context: what was said and what was heard, in order, bounded."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.llm.context import FORGET_MESSAGES, GAP, MAX_MESSAGE_CHARS, Context, cut_middle, heard_text

pytestmark = pytest.mark.unit

CLAUSES = ["The capital of France ", "is Paris, which lies on the Seine."]


def shown(context: Context, turn: int = 0, text: str = "") -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in context.messages(turn, text)]


def test_instructions_come_first_and_only_if_there_are_any() -> None:
    assert shown(Context("Be short.")) == [("system", "Be short.")]
    assert shown(Context("")) == []


def test_a_conversation() -> None:
    context = Context("Be short.")
    context.append_user(1, "Hello.")
    context.append_heard(1, ["Hi there. ", "How are you?"], 1, 12, interrupted=False)
    context.append_user(2, "Fine.")
    assert shown(context) == [
        ("system", "Be short."),
        ("user", "Hello."),
        ("assistant", "Hi there. How are you?"),
        ("user", "Fine."),
    ]


@pytest.mark.parametrize(
    ("clause", "char", "text"),
    [
        (0, 0, ""),
        (0, 2, ""),
        (0, 3, "The"),
        (0, 4, "The"),
        (0, 9, "The"),
        (0, 11, "The capital"),
        (1, 0, "The capital of France"),
        (1, 8, "The capital of France is Paris"),
        (1, 9, "The capital of France is Paris,"),
        (1, 34, "The capital of France is Paris, which lies on the Seine."),
        (1, 999, "The capital of France is Paris, which lies on the Seine."),
        (2, 0, "The capital of France is Paris, which lies on the Seine."),
        (9, 9, "The capital of France is Paris, which lies on the Seine."),
    ],
)
def test_heard_text_ends_with_a_whole_word(clause: int, char: int, text: str) -> None:
    assert heard_text(CLAUSES, clause, char) == text


def test_heard_text_keeps_contractions_whole() -> None:
    assert heard_text(["I don't know."], 0, 5) == "I"


def test_a_message_that_a_later_one_takes_in_is_taken_back() -> None:
    context = Context("")
    context.append_user(1, "I want a room.")
    context.append_heard(1, ["Sure, when?"], 0, 5, interrupted=True)
    context.append_note("page 2")
    context.withdraw_user(1)
    context.append_user(2, "I want a room. For two.")
    assert [role for role, _ in shown(context)] == ["assistant", "user"]
    assert shown(context)[1:] == [("user", "page 2\nI want a room. For two.")]
    context.withdraw_user(7)
    assert len(context.history) == 3


def test_an_answer_of_which_nothing_was_heard_leaves_no_message() -> None:
    context = Context("")
    context.append_user(1, "Tell me a story.")
    context.append_heard(1, CLAUSES, 0, 2, interrupted=True)
    context.append_user(2, "No, a joke.")
    assert shown(context) == [("user", "Tell me a story.\nNo, a joke.")]


def test_an_interrupted_answer_is_kept_as_heard_and_marked() -> None:
    context = Context("")
    context.append_user(1, "Which one?")
    context.append_heard(1, CLAUSES, 0, 11, interrupted=True)
    assert shown(context) == [("user", "Which one?"), ("assistant", "The capital...")]
    assert [(message.text, message.interrupted) for message in context.history] == [("Which one?", False), ("The capital", True)]


@pytest.mark.parametrize(
    ("heard", "shows"),
    [
        ("I mean", "I mean..."),
        ("I mean,", "I mean..."),
        ("I see \u2014", "I see..."),
        ("I see.", "I see. ..."),
        ("Why?", "Why? ..."),
    ],
)
def test_the_model_is_shown_where_an_answer_was_cut_off(heard: str, shows: str) -> None:
    context = Context("")
    context.append_heard(1, [heard + " and so on"], 0, len(heard), interrupted=True)
    assert shown(context) == [("assistant", shows)]
    assert context.history[0].text == heard


def test_what_is_heard_late_still_stands_in_its_turn() -> None:
    context = Context("")
    context.append_user(1, "One?")
    context.append_user(2, "Two?")
    context.append_heard(1, ["Heard of one."], 1, 0, interrupted=True)
    assert shown(context) == [("user", "One?"), ("assistant", "Heard of one. ..."), ("user", "Two?")]


def test_a_greeting_comes_before_the_first_turn_of_the_user() -> None:
    context = Context("I.")
    context.append_heard(1, ["Good evening."], 1, 0, interrupted=False)
    context.append_user(2, "Hi.")
    assert shown(context) == [("system", "I."), ("assistant", "Good evening."), ("user", "Hi.")]


def test_a_note_stands_behind_what_is_there() -> None:
    context = Context("")
    context.append_user(3, "Hi.")
    context.append_heard(3, ["Hello."], 1, 0, interrupted=False)
    context.append_note("I am on page two.")
    context.append_user(4, "What is here?")
    assert shown(context) == [("user", "Hi."), ("assistant", "Hello."), ("user", "I am on page two.\nWhat is here?")]


def test_a_prompt_on_trial_is_not_kept() -> None:
    context = Context("")
    assert shown(context, 1, "Hi.") == [("user", "Hi.")]
    assert shown(context) == []
    context.append_user(1, "Hi.")
    assert shown(context, 1, "Hi.") == [("user", "Hi.")]


def test_white_space_is_no_message() -> None:
    context = Context("")
    context.append_user(1, " \n")
    context.append_note("")
    assert context.history == ()


def test_the_oldest_turns_are_forgotten_as_a_whole_and_several_at_once() -> None:
    context = Context("Stay.", max_messages=40)
    for turn in range(1, 30):
        context.append_user(turn, f"question {turn}")
        context.append_heard(turn, [f"answer {turn}"], 1, 0, interrupted=False)
    history = context.history
    assert 40 - FORGET_MESSAGES - 2 <= len(history) <= 40
    assert history[0].role == "user"
    assert history[-1].text == "answer 29"
    assert shown(context)[0] == ("system", "Stay.")


def test_long_messages_lose_their_middle() -> None:
    context = Context("")
    context.append_user(1, "a" * 10_000 + "b" * 10_000)
    (_, text) = shown(context)[0]
    assert text.startswith("aaa")
    assert text.endswith("bbb")
    assert GAP in text
    assert len(text) <= MAX_MESSAGE_CHARS + len(GAP)
    assert cut_middle("short", 10) == "short"


steps = st.lists(st.tuples(st.sampled_from(["user", "note", "heard"]), st.integers(1, 30), st.text(max_size=300)), max_size=120)


@given(steps)
def test_bounds_order_and_alternation(taken: list[tuple[str, int, str]]) -> None:
    context = Context("System.", max_messages=20, max_chars=1_000)
    for kind, turn, text in taken:
        if kind == "user":
            context.append_user(turn, text)
        elif kind == "note":
            context.append_note(text)
        else:
            context.append_heard(turn, [text], 1, 0, interrupted=False)
    history = context.history
    assert len(history) <= 20
    assert sum(len(message.text) for message in history) <= 1_000
    assert list(history) == sorted(history)
    roles = [message.role for message in context.messages()]
    assert roles[0] == "system"
    assert all(first != second for first, second in itertools.pairwise(roles))


GIVEN = [("system", "Be rude."), ("user", "I am Ann."), ("assistant", " "), ("user", "I like tea."), ("assistant", "So do I.")]


def test_a_replaced_conversation_is_the_given_one_and_goes_on() -> None:
    context = Context("Be short.")
    context.append_user(3, "Forget this.")
    context.append_heard(3, ["Or that."], 1, 0, interrupted=False)
    context.replace(GIVEN)
    context.append_user(4, "Who am I?")
    assert shown(context, 5, "What do I like?") == [
        ("system", "Be rude."),
        ("user", "I am Ann.\nI like tea."),
        ("assistant", "So do I."),
        ("user", "Who am I?\nWhat do I like?"),
    ]


def test_a_replacement_without_instructions_keeps_those_there_are() -> None:
    context = Context("Be short.")
    context.append_user(1, "Forget this.")
    context.replace([])
    assert shown(context) == [("system", "Be short.")]


def test_a_replacement_is_bounded_and_loses_its_oldest() -> None:
    context = Context("", max_messages=40)
    context.replace([("user" if place % 2 == 0 else "assistant", str(place)) for place in range(64)])
    texts = [message.text for message in context.history]
    assert texts == [str(place) for place in range(64 - len(texts), 64)]
    assert 40 - FORGET_MESSAGES <= len(texts) <= 40
