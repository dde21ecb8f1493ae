"""From messages to tokens and from tokens to text, with a model's own tokenizer and chat template.

It needs the packages tokenizers and jinja2 only, and gives exactly what transformers' ``apply_chat_template`` gives, without its
import of torch: about 2 s and 300 MB less in the engine's process.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from rtvi_actors.errors import EngineError, ModelMissingError
from rtvi_actors.llm.engine import ChatMessage
from rtvi_actors.llm.fitting import Fitting, split


class ChatPrompt:
    """The prompts of one model. Safe to use from several threads.

    Args:
        folder: has ``tokenizer.json``, ``tokenizer_config.json`` and a chat template, as transformers saves them.
        context_tokens: Longest prompt.

    Raises:
        ModelMissingError: a file or a package is missing.
    """

    def __init__(self, folder: Path, context_tokens: int) -> None:
        try:
            from jinja2.sandbox import ImmutableSandboxedEnvironment
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ModelMissingError("language models need more packages: run pip install 'rtvi_actors[models]'") from error
        settings = json.loads(_read(folder / "tokenizer_config.json"))
        template = folder / "chat_template.jinja"
        source = _read(template) if template.exists() else settings.get("chat_template")
        if not isinstance(source, str):
            raise ModelMissingError(f"{folder} has no chat template: use an instruct model")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)  # local time, as in transformers
        self._template = environment.from_string(source)
        self._tokenizer: Any = Tokenizer.from_str(_read(folder / "tokenizer.json"))
        self._names = {
            key: _token(settings[key]) for key in ("bos_token", "eos_token", "unk_token", "pad_token") if settings.get(key)
        }
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._special = [token.content for token in added if token.special]
        self.end_ids = self._end_ids(folder)
        """Tokens that end an answer."""
        self._fitting = Fitting(context_tokens, lru_cache(maxsize=2_048)(self._message_tokens))

    def encode(self, messages: Sequence[ChatMessage]) -> Any:
        """The prompt for an answer to ``messages``, as far as they fit: an Encoding, with ``ids`` and ``tokens``.

        Raises:
            EngineError: the chat template refuses them.
        """
        return self._render(self.fit(messages), answer_next=True)

    def encode_history(self, messages: Sequence[ChatMessage]) -> Any:
        """The beginning that the next prompt has if ``messages``, with an answer as the last, are what comes before its last."""
        instructions, history = split(messages)
        return self._render([*instructions, *self._fitting.fit_history(instructions, history)], answer_next=False)

    def fit(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """What of ``messages`` makes a prompt of at most ``context_tokens``; see :class:`Fitting`."""
        return self._fitting.fit(messages)

    def detokenizer(self) -> Detokenizer:
        """For the tokens of one answer."""
        return Detokenizer(self._tokenizer)

    def _render(self, messages: Sequence[ChatMessage], *, answer_next: bool) -> Any:
        plain = [{"role": message.role, "content": self._without_special(message.content)} for message in messages]
        try:
            text = self._template.render(messages=plain, add_generation_prompt=answer_next, **self._names)
        except Exception as error:
            # Templates are programs of the model's makers: they may raise anything.
            raise EngineError(f"the model's chat template refuses the conversation: {error}") from error
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _without_special(self, text: str) -> str:
        """Nobody writes the marks of a message into a message."""
        for token in self._special:
            if token in text:
                text = text.replace(token, " ")
        return text

    def _message_tokens(self, role: str, content: str) -> int:
        """Tokens of a message with its marks."""
        return len(self._tokenizer.encode(self._without_special(content), add_special_tokens=False).ids) + 5

    def _end_ids(self, folder: Path) -> list[int]:
        # A model that begins another message has ended its answer, too.
        ids = {self._tokenizer.token_to_id(self._names.get(name, "")) for name in ("eos_token", "bos_token")}
        generation = folder / "generation_config.json"
        if generation.exists():
            told = json.loads(_read(generation)).get("eos_token_id")
            ids.update(told if isinstance(told, list) else [told])
        ids.discard(None)
        if not ids:
            raise ModelMissingError(f"{folder} names no token that ends an answer")
        return sorted(ids)


class Detokenizer:
    """The text of tokens as they come. Never gives half of a character; keeps the spaces between words."""

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def push(self, token_id: int) -> str:
        """The text that is complete with this token; "" if none is."""
        text: str | None = self._stream.step(self._tokenizer, token_id)
        return text or ""


def _token(value: Any) -> str:
    return value["content"] if isinstance(value, dict) else str(value)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelMissingError(f"{file} cannot be read ({error.strerror}): run `rtvi-actors models prepare`") from error


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)
