"""Text as an English voice can say it. Pure.

Language models write Markdown, emoji, symbols and other scripts; the voice knows Latin letters, digits and some punctuation. What
has a word is spelled out, what has none is left out. Coqui's own cleaner turns the digits into words afterwards; the rules here
are for what it reads wrongly.
"""

from __future__ import annotations

import re
import unicodedata

_WORDS = {
    "%": "percent",
    "&": "and",
    "+": "plus",
    "=": "equals",
    "@": "at",
    "~": "about",
    "°": "degrees",
    "\u00d7": "times",
    "÷": "divided by",
    "½": "one half",
    "¼": "one quarter",
    "¾": "three quarters",
    "$": "dollars",
    "£": "pounds",
    "€": "euros",
    "¥": "yen",
}
_LOOK_ALIKES = {"\u2018": "'", "\u2019": "'", "\u2013": "-", "\u2212": "-", "\u2014": ",", "\u2026": ".", "(": ",", ")": ","}
_PUNCTUATION = frozenset(",.;:!?'-")

_AMOUNT = r"(\d[\d,]*(?:\.\d+)?)"
_PATTERNS: tuple[tuple[str, str], ...] = (
    (r"!?\[([^\]]*)\]\([^)\s]*\)", r"\1"),  # of a Markdown link its text
    (r"\b(?:https?://(?:www\.)?|www\.)([\w-]+(?:\.[\w-]+)*)\S*", r"\1"),  # of an address its host
    (r"(?m)^\s*(?:[-*+]|#{1,6})\s+", ""),  # Markdown's bullets and headings
    (r"\bC\+\+", "C plus plus"),
    (r"\b([A-G])#", r"\1 sharp"),
    (r"#\s*(?=\d)", "number "),
    (r"(?<=\d)\s*°\s*C\b", " degrees Celsius"),
    (r"(?<=\d)\s*°\s*F\b", " degrees Fahrenheit"),
    (rf"€\s*{_AMOUNT}", r"\1 euros"),
    (rf"¥\s*{_AMOUNT}", r"\1 yen"),
    (rf"\$\s*{_AMOUNT}\s+(thousand|[mbtr]+illion)\b", r"\1 \2 dollars"),
    (rf"£\s*{_AMOUNT}\s+(thousand|[mbtr]+illion)\b", r"\1 \2 pounds"),
    (r"\b(\d{1,2}):00(?=\s*[ap]\.?m\b)", r"\1 "),  # times of day
    (r"\b(\d{1,2}):00\b", r"\1 o'clock"),
    (r"\b(\d{1,2}):0(\d)", r"\1 oh \2"),
    (r"\b(\d{1,2}):(\d\d)", r"\1 \2"),
    (r"\b(\d{4})-(\d\d)-(\d\d)\b", r"\1, \2, \3"),  # dates
    (r"(?<=\d)[-\u2013](?=\d)", " to "),  # ranges
    (r"(?<=\d)\s*/\s*(?=\d)", " over "),
    (r"(?<=\d)(?=[A-Za-z])(?!(?:st|nd|rd|th|s)\b)", " "),  # 5km, 3D
    (r"(?<=[A-Za-z])(?=\d)", " "),  # v2
    (r"(?<=\w)\.(?=(?:com|org|net|io|ai|dev|edu|gov)\b)", " dot "),
)
_BEFORE = tuple((re.compile(pattern), to) for pattern, to in _PATTERNS)
_DECIMALS = re.compile(r"(?<![$£\d,])(\d[\d,]*)((?:\.\d+)+)")
_LONG_NUMBER = re.compile(r"\d{13,}")
_MONEY_SIGN = re.compile(r"[$£](?=\d)")


def spoken_text(text: str) -> str:
    """``text`` in Latin letters, digits and the punctuation ``,.;:!?'-`` (and ``$`` or ``£`` before a number).

    "" if there is nothing to say: only white space, punctuation, emoji or letters of another script.
    """
    text = unicodedata.normalize("NFC", text)
    for pattern, to in _BEFORE:
        text = pattern.sub(to, text)
    text = _DECIMALS.sub(_read_decimals, text)
    text = _LONG_NUMBER.sub(lambda number: " ".join(number.group()), text)
    signs = {match.start() for match in _MONEY_SIGN.finditer(text)}
    text = "".join(character if at in signs else _speakable(character) for at, character in enumerate(text))
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+(?=[,.;:!?])", "", text)
    text = re.sub(r"[,;:.]*([.!?])[,;:.]*", r"\1", text)
    text = re.sub(r"[,;:]+(?=[,;:])", "", text).strip(" ,;:-")
    return text if any(character.isalnum() for character in text) else ""


def _read_decimals(number: re.Match[str]) -> str:
    """``3.14`` -> ``3 point 1 4``, digit by digit."""
    parts = [" ".join(part) for part in number.group(2)[1:].split(".")]
    return " point ".join([number.group(1), *parts])


def _speakable(character: str) -> str:
    """The character itself, its word, or a space."""
    character = _LOOK_ALIKES.get(character, character)
    if character in _WORDS:
        return f" {_WORDS[character]} "
    if character in _PUNCTUATION or (character.isascii() and character.isalnum()):
        return character
    if character.isalpha() and unicodedata.name(character, "").startswith("LATIN"):
        return character
    # The rest of an emoji or a decomposed letter, and a quotation mark, leave no gap.
    return "" if unicodedata.category(character) in ("Mn", "Cf", "Pi", "Pf") or character == '"' else " "
