"""What a chat server answered: the texts in it, the tokens it counted, or what is wrong.

Answers are a stranger's: bounded in size before they come here, of any JSON, of any characters.  About 20 µs each.
"""

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

LONGEST_TEXT = 20_000
"""Characters of an answer that are kept."""

_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\ufffd]")


class ServerCode(StrEnum):
    """Why a server gave no answer."""

    TIMEOUT = "server_timeout"
    BUSY = "server_busy"
    ERROR = "server_error"
    REFUSED = "server_refused"
    GARBAGE = "server_garbage"


@dataclass(frozen=True)
class Answer:
    """A text or null for each choice that was asked for, and the tokens that the server counted, where it did."""

    texts: tuple[str | None, ...]
    error: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def read_answer(body: bytes, count: int) -> Answer | None:
    """The answer in the body of a 200 with ``count`` choices, in their order; None where there is none in it.

    Choices beyond ``count`` are left out; missing ones are null, and ``server_garbage``: the server does not know 'n'.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    choices = found.get("choices") if isinstance(found, dict) else None
    if not isinstance(choices, list) or not choices or not all(_is_choice(one) for one in choices):
        return None
    texts = [cleaned(_content(one["message"])) for one in sorted(choices, key=_place)][:count]
    usage = found.get("usage")
    tokens = [_count(usage.get(f"{kind}_tokens")) if isinstance(usage, dict) else None for kind in _KINDS]
    lacking = count - len(texts)
    return Answer((*texts, *[None] * lacking), ServerCode.GARBAGE.value if lacking else None, *tokens)


_KINDS = ("prompt", "completion")


def cleaned(text: str | None) -> str | None:
    """A text without control characters and U+FFFD, each run of white space one space; null where nothing is left."""
    if not text:
        return None
    return " ".join(_CONTROL.sub("", text[:LONGEST_TEXT]).split()) or None


def said(body: bytes) -> str:
    """The message of an error, as one line of at most 200 printable characters; empty where there is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    error = found.get("error", found) if isinstance(found, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    text = " ".join(str(message).split()) if isinstance(message, str) else ""
    return "".join(c if c.isprintable() else "?" for c in text[:200])


def _is_choice(one: Any) -> bool:
    message = one.get("message") if isinstance(one, dict) else None
    if not isinstance(message, dict):
        return False
    return message.get("content") is None or isinstance(message["content"], str | list)


def _place(one: dict[str, Any]) -> int:
    """A choice's number, as the server gives it."""
    index = one.get("index")
    return index if isinstance(index, int) else 0


def _content(message: dict[str, Any]) -> str | None:
    """The text of a message; of one in parts, that of all of them."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content


def _count(tokens: Any) -> int | None:
    is_count = isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens < 2**31
    return tokens if is_count else None
