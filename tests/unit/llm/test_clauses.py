"""Cutting text into clauses: the text is kept, the bounds hold, nothing is cut that belongs together."""

# ruff: noqa: RUF001 - typographic and CJK marks are what is tested

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.llm.clauses import MAX_CHARS, ClauseCutter

pytestmark = pytest.mark.unit


def cut(text: str, size: int = 0) -> list[str]:
    """All clauses of ``text``, pushed in pieces of ``size`` characters (0: at once)."""
    cutter = ClauseCutter()
    pieces = [text[at : at + size] for at in range(0, len(text), size)] if size else [text]
    clauses = [clause for piece in pieces for clause in cutter.push(piece)]
    rest = cutter.end()
    return [*clauses, rest] if rest else clauses


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("Paris.", ["Paris."]),
        ("The capital of France is Paris.", ["The capital of France is Paris."]),
        ("Well sure, that is easy. It is Paris.", ["Well sure, ", "that is easy. ", "It is Paris."]),
        ("Yes, of course, I can. Ask me.", ["Yes, of course, ", "I can. ", "Ask me."]),
        ("Hello! How are you? Fine.", ["Hello! How are you? ", "Fine."]),
        # later clauses do not end at commas
        ("Sure thing. First, second, and third. Done.", ["Sure thing. ", "First, second, and third. ", "Done."]),
        # a first clause that runs on ends between words, but not on a word that leans on the next
        ("one two three four five six seven eight", ["one two three four five six ", "seven eight"]),
        ("there was once a king of the land who", ["there was once a king of the land ", "who"]),
        ("a b c d e of the of the of the x", ["a b c d e of the of the of ", "the x"]),
        ("call me on number five 555 1234 now please", ["call me on number five 555 1234 ", "now please"]),
        # numbers, abbreviations, initials, addresses, ellipses
        ("It costs 3.5 euros, or 1,000 yen. Fine.", ["It costs 3.5 euros, ", "or 1,000 yen. ", "Fine."]),
        ("Ask Mr. Smith or Dr. Jones. They know.", ["Ask Mr. Smith or Dr. Jones. ", "They know."]),
        ("Take fruit, e.g. apples. Good.", ["Take fruit, ", "e.g. apples. ", "Good."]),
        ("J. K. Rowling wrote it. Yes.", ["J. K. Rowling wrote it. ", "Yes."]),
        ("Open https://a.example/b.c?d=1,2 now. Then go.", ["Open https://a.example/b.c?d=1,2 now. ", "Then go."]),
        ("Let me see... I think so. Yes.", ["Let me see... ", "I think so. ", "Yes."]),
        ("Let me see . . . I think so", ["Let me see . . . ", "I think so"]),
        ('He said "Go on." Then he left.', ['He said "Go on." ', "Then he left."]),
        ("The answer is no. He sat in the sun. Fine.", ["The answer is no. ", "He sat in the sun. ", "Fine."]),
        # lists
        ("Here you are:\n1. Tea\n2. Coffee", ["Here you are:\n", "1. Tea\n", "2. Coffee"]),
        # other scripts and emoji
        ("今日は、いい天気です。散歩しましょう。", ["今日は、いい天気です。", "散歩しましょう。"]),
        ("早上好，朋友。今天天气很好。", ["早上好，朋友。", "今天天气很好。"]),
        ("Отлично, спасибо! Как дела? Хорошо.", ["Отлично, спасибо! ", "Как дела? ", "Хорошо."]),
        ("So nice! 😀 Let us go.", ["So nice! ", "😀 Let us go."]),
        ("", []),
        ("   ", ["   "]),
    ],
)
@pytest.mark.parametrize("size", [0, 1, 3])
def test_clauses(text: str, clauses: list[str], size: int) -> None:
    assert cut(text, size) == clauses


def test_a_later_clause_may_be_as_long_as_what_was_said_before_it_gives_time_for() -> None:
    text = "The game of chess, known as the royal game, is a classic puzzle, so to say. It is old, and so on."
    assert cut(text) == [
        "The game of chess, ",
        # 24 characters do not end it at a comma, 1.5 times the first clause does
        "known as the royal game, is a classic puzzle, ",
        "so to say. ",
        "It is old, and so on.",
    ]


def test_a_second_clause_without_marks_is_cut_between_words_that_do_not_lean() -> None:
    first, second, *_ = cut("All right. " + "we walk on to the hill of the old town and " * 9)
    assert (first, second) == ("All right. ", "we walk on to the hill of the old town and we ")


def test_a_clause_that_is_late_ends_with_its_last_word() -> None:
    cutter = ClauseCutter()
    assert cutter.push("The original sentence is a clever way") == ["The original sentence is a clever "]
    assert cutter.push(" of using the word more prudently to", played_ms=600) == []  # there is time: it plays for about a second
    # "to" and "the" lean on what follows
    assert cutter.push(" the", played_ms=800) == cutter.push(" contrast", played_ms=900) == []
    assert cutter.push(" with", played_ms=950) == ["way of using the word more prudently to the contrast "]
    # what was given now lasts for a while
    assert cutter.push(" the rest of it and so", played_ms=1_000) == []


def test_a_late_clause_rather_ends_at_a_pause_and_is_no_crumb() -> None:
    cutter = ClauseCutter()
    assert cutter.push("All right. Now then x", played_ms=5_000) == ["All right. "]
    assert cutter.push("y go", played_ms=5_000) == []
    assert cutter.push(" on there, as it", played_ms=5_000) == ["Now then xy go on there, "]


def test_later_clause_beyond_120_characters_ends_at_a_comma() -> None:
    text = "All right, then I will tell you what it is all about. " + "and so on " * 13 + "it went, until it stopped, at last."
    *_, before, long, rest = cut(text)
    assert before == "then I will tell you what it is all about. "
    assert long.endswith("it went, ")
    assert len(long) > 120
    assert rest == "until it stopped, at last."


def test_text_without_marks_is_cut_between_words() -> None:
    clauses = cut("Go on then. " + "word " * 500)
    assert all(len(clause) <= MAX_CHARS and clause.endswith("word ") for clause in clauses[1:-1])


def test_hard_cut_keeps_drawn_characters_whole() -> None:
    family = "👩\u200d👩\u200d👧"
    for shift in range(6):
        clauses = cut("x" * shift + family * 200)
        assert "".join(clauses) == "x" * shift + family * 200
        assert not any(clause.endswith("\u200d") or clause.startswith("\u200d") for clause in clauses)


def test_first_clause_is_there_before_the_answer_is() -> None:
    cutter = ClauseCutter()
    assert cutter.push("The weather today is sunny and warm") == []
    assert cutter.push(" all over") == ["The weather today is sunny and warm "]


def test_a_very_long_text_at_once() -> None:
    text = "This is a sentence. " * 20_000
    assert "".join(cut(text)) == text


texts = st.text(
    alphabet=st.one_of(st.sampled_from(list(" .,;:!?…\n\t3590aZ。、“\"')\u0301\u200d😀🇫🇷")), st.characters()), max_size=1_500
)


@given(texts, st.lists(st.tuples(st.integers(1, 60), st.floats(0.0, 20_000.0)), min_size=1, max_size=20))
def test_joined_and_bounded_however_late(text: str, pushes: list[tuple[int, float]]) -> None:
    cutter = ClauseCutter()
    clauses: list[str] = []
    at = count = 0
    while at < len(text):
        size, played_ms = pushes[count % len(pushes)]
        clauses += cutter.push(text[at : at + size], played_ms)
        at, count = at + size, count + 1
    clauses.append(cutter.end())
    assert "".join(clauses) == text
    assert all(1 <= len(clause) <= MAX_CHARS for clause in clauses[:-1])
    assert len(clauses[-1]) <= MAX_CHARS


@given(texts, st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_joined_bounded_and_independent_of_the_pieces(text: str, sizes: list[int]) -> None:
    cutter = ClauseCutter()
    clauses: list[str] = []
    at = count = 0
    while at < len(text):
        size = sizes[count % len(sizes)]
        clauses += cutter.push(text[at : at + size])
        at, count = at + size, count + 1
    rest = cutter.end()
    clauses += [rest] if rest else []
    assert "".join(clauses) == text
    assert all(1 <= len(clause) <= MAX_CHARS for clause in clauses)
    assert clauses == cut(text)
