"""A server that speaks OpenAI's chat protocol (vLLM, SGLang, llama.cpp, TGI, OpenAI): its settings, and asking it.

Many requests are in flight at a time, across the batches that a filter is given; answers come back in the order of the
questions.  A worker has one thread for all of them; a request costs 0.4 ms of a core, 2 with an image of 640×480, which
is decoded to see whether it is one, and 5 where it is made smaller.  At most ``concurrency`` requests are in memory,
twice as many wait with their images.
"""

import asyncio
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread, current_thread
from typing import Annotated, Any, TypeAlias
from weakref import finalize

import pyarrow as pa
from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_core import PydanticCustomError
from yarl import URL

from pairsieve.filters._chat_answers import Answer
from pairsieve.filters._chat_http import Client, Limits
from pairsieve.filters._chat_images import data_url
from pairsieve.filters.base import SECRET, Runtime, Settings
from pairsieve.schemas.errors import UserError

Body: TypeAlias = dict[str, Any]

_RESERVED = frozenset(
    ("model", "messages", "stream", "seed", "max_tokens", "temperature", "top_p", "stop", "stream_options")
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _address(text: str) -> str:
    """The base address, as ``http://host:8000/v1``."""
    try:
        url = URL(text.strip())
        known = url.scheme in ("http", "https") and url.host and url.port
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"{text[:200]!r} is no address of a server; write http://host:8000/v1")
    if url.raw_user is not None or url.raw_password is not None:
        raise _secret("a name or password in the address would be stored with the run; write 'api_key_env'")
    if url.raw_query_string or url.raw_fragment:
        raise _secret("the address has a query, which may hold a secret; write it alone: http://host:8000/v1")
    path = url.raw_path.rstrip("/").removesuffix("/chat/completions")
    return str(url.with_path(path or "/v1", encoded=True))


def _secret(why: str) -> PydanticCustomError:
    """An error whose value is not repeated."""
    return PydanticCustomError(SECRET, why)


def _variable(name: str | None) -> str | None:
    """A variable's name; what looks like a key itself is not repeated."""
    if name is not None and not _NAME.fullmatch(name):
        raise _secret("it is the name of an environment variable, such as OPENAI_API_KEY, never the key")
    return name


def _fields(fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Further fields of a request, none of which is set otherwise."""
    for name in fields:
        if name in _RESERVED:
            raise ValueError(f"{name!r} is set by a setting of its own, or not at all")
    return fields


class ChatServer(Settings):
    """Where a large model is served, and how it is asked.

    Each request has a seed of its own, made of the step's seed, the pair and the number of the answer: a server that
    honours ``seed`` gives the same answer again, whatever the order.  Requests are tried again after 408, 429, 5xx, a
    time-out, a broken connection, or an answer that is none; not after another 4xx.  A server that cannot be reached
    for ``patience`` seconds, or fails ``give_up`` requests on end, stops the run with one line: it resumes.
    """

    url: Runtime[Annotated[str, AfterValidator(_address)]] = Field(
        max_length=2048, description="base address, such as http://localhost:8000/v1; may be private"
    )
    model: str = Field(min_length=1, max_length=1024, description="name that the server knows the model by")
    api_key_env: Runtime[Annotated[str | None, AfterValidator(_variable)]] = Field(
        None, description="name of the environment variable with the key; the key itself is never stored"
    )
    system: str | None = Field(None, max_length=65_536, description="system message")
    temperature: NonNegativeFloat | None = Field(0.0, le=10, description="0: greedy; null: the server's default")
    top_p: float | None = Field(None, gt=0, le=1, description="nucleus; null: the server's default")
    max_tokens: PositiveInt | None = Field(128, description="of an answer; null: the server's default")
    stop: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field(
        (), max_length=16, description="strings that end an answer"
    )
    fields: Annotated[dict[str, JsonValue], AfterValidator(_fields)] = Field(
        {}, description="further fields of each request, as the server knows them: {top_k: 50} of vLLM"
    )
    image_side: int | None = Field(
        None, ge=8, le=65_500, description="longest side of images sent, in pixels; null: JPEG, PNG and WebP as is"
    )
    together: bool = Field(
        False, description="ask for all answers to a prompt in one request ('n'), one seed for them all"
    )
    concurrency: Runtime[PositiveInt] = Field(64, le=4096, description="requests that one worker has in flight")
    timeout: Runtime[PositiveFloat] = Field(120.0, description="seconds for one attempt, its queueing included")
    deadline: Runtime[PositiveFloat] = Field(600.0, description="seconds for one request with all its attempts")
    retries: Runtime[NonNegativeInt] = Field(4, le=100, description="further attempts")
    backoff: Runtime[PositiveFloat] = Field(
        0.5, le=60, description="seconds before the second attempt, doubled after each; Retry-After counts too"
    )
    patience: Runtime[PositiveFloat] = Field(120.0, description="seconds that a server may be unreachable")
    give_up: Runtime[PositiveInt | None] = Field(
        100, description="stop the run when so many requests on end fail; null: never"
    )

    @model_validator(mode="after")
    def _one_number(self) -> "ChatServer":
        if self.together and "n" in self.fields:
            raise ValueError("'together' sets the field 'n'; give one of them")
        return self

    @property
    def limits(self) -> Limits:
        """What a client may do."""
        return Limits(
            self.concurrency, self.timeout, self.deadline, self.retries, self.backoff, self.patience, self.give_up
        )

    def body(self, prompt: str, image: str | None, seed: int, count: int = 1) -> Body:
        """The JSON of a request; an image comes before the text."""
        content: str | list[dict[str, Any]] = prompt
        if image is not None:
            content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": prompt}]
        system = [{"role": "system", "content": self.system}] if self.system else []
        body: Body = {"model": self.model, "messages": [*system, {"role": "user", "content": content}], "seed": seed}
        chosen = {"max_tokens": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p}
        body |= {name: value for name, value in chosen.items() if value is not None}
        body |= {"stop": list(self.stop)} if self.stop else {}
        return body | ({"n": count} if count > 1 else {}) | self.fields

    def key(self) -> str | None:
        """The API key; raises ``UserError`` where its variable is not set."""
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            why = "holds no key" if key else "is not set where the worker runs"
            raise UserError(f"server: api_key_env: {self.api_key_env} {why}; export it and start again")
        return key


@dataclass(frozen=True)
class Ask:
    """One question: a prompt, an image, and 64 keyed bits that its seed and its waits come from."""

    prompt: str
    bits: int
    image: bytes | None = None
    count: int = 1


Asks: TypeAlias = list[Ask] | str
"""Of a row: its questions, or why there are none."""


@dataclass(frozen=True)
class Found:
    """What became of a row: a text or null for each answer asked for, why they are lost, how many, tokens counted."""

    texts: tuple[str | None, ...] = ()
    error: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    failed: int = 0

    @staticmethod
    def of(answers: Sequence[Answer]) -> "Found":
        """The answers to a row's questions, in order; the first failure is the row's error."""
        errors = [answer.error for answer in answers if answer.error]
        return Found(
            tuple(text for answer in answers for text in answer.texts),
            errors[0] if errors else None,
            _total([answer.prompt_tokens for answer in answers]),
            _total([answer.completion_tokens for answer in answers]),
            sum(answer.texts.count(None) for answer in answers if answer.error),
        )


@dataclass(frozen=True)
class _Opened:
    """A connected client, the loop of its thread, and how both end."""

    client: Client
    loop: asyncio.AbstractEventLoop
    end: Callable[[], object]


class Chat:
    """A server that is being asked: a thread with an event loop from the first question to ``close``."""

    def __init__(self, server: ChatServer) -> None:
        """Nothing is asked before there is a question, so that a run without any needs no server."""
        self._server = server
        self._opened: _Opened | None = None

    def close(self) -> None:
        """End what is in flight, and the thread; happens by itself when nobody asks any more."""
        if self._opened:
            self._opened.end()
        self._opened = None

    def _open(self) -> "_Opened":
        """Connect and ask one token; raises ``PairsieveError`` with one line where the server is not as meant."""
        if self._opened is None:
            client = Client(self._server.url, self._server.model, self._server.key(), self._server.limits)
            loop = asyncio.new_event_loop()
            thread = Thread(target=loop.run_forever, name="pairsieve-chat", daemon=True)
            thread.start()
            self._opened = _Opened(client, loop, finalize(self, _end, os.getpid(), loop, thread, client))
            try:
                opening = client.open(self._server.body("Hello", None, 0) | _SHORT)
                asyncio.run_coroutine_threadsafe(opening, loop).result()
            except BaseException:
                self.close()
                raise
        return self._opened

    def stream(
        self, parts: Iterable[pa.RecordBatch], asks: Callable[[pa.RecordBatch], list[Asks]]
    ) -> Iterator[tuple[pa.RecordBatch, list[Found]]]:
        """Each batch with what became of its rows, in order; a batch is taken while earlier ones are answered."""
        waiting: deque[tuple[pa.RecordBatch, list[list[Future[Answer]] | str]]] = deque()
        try:
            for pairs in parts:
                rows = [row if isinstance(row, str) else [self._put(ask) for ask in row] for row in asks(pairs)]
                waiting.append((pairs, rows))
                while waiting and self._is_enough(waiting):
                    yield self._finished(*waiting.popleft())
            while waiting:
                yield self._finished(*waiting.popleft())
        finally:
            for _, rows in waiting:
                for future in (future for row in rows if not isinstance(row, str) for future in row):
                    future.cancel()

    def _is_enough(self, waiting: Iterable[tuple[pa.RecordBatch, list[list[Future[Answer]] | str]]]) -> bool:
        """Whether the first is done, or so many wait that the server has no need of more."""
        futures = [[f for row in rows if not isinstance(row, str) for f in row] for _, rows in waiting]
        is_done = all(future.done() for future in futures[0])
        return is_done or sum(not f.done() for part in futures for f in part) >= 2 * self._server.concurrency

    def _finished(
        self, pairs: pa.RecordBatch, rows: list[list[Future[Answer]] | str]
    ) -> tuple[pa.RecordBatch, list[Found]]:
        try:
            found = [
                Found(error=row) if isinstance(row, str) else Found.of([future.result() for future in row])
                for row in rows
            ]
        except BaseException:
            for future in (future for row in rows if not isinstance(row, str) for future in row):
                future.cancel()
            raise
        return pairs, found

    def _put(self, ask: Ask) -> "Future[Answer]":
        opened = self._open()
        turn = opened.client.turn(ask.bits, self._body_of(ask), ask.count)
        return asyncio.run_coroutine_threadsafe(turn, opened.loop)

    def _body_of(self, ask: Ask) -> Callable[[], Body | str]:
        """Makes the request in a thread when its turn comes, or says why there is none."""

        def made() -> Body | str:
            image, error = data_url(ask.image, self._server.image_side) if ask.image is not None else (None, None)
            return error or self._server.body(ask.prompt, image, ask.bits >> 33, ask.count)

        return made


_SHORT = {"max_tokens": 1}


def _end(owner: int, loop: asyncio.AbstractEventLoop, thread: Thread, client: Client) -> None:
    """End a loop and its thread; a forked process has neither."""
    if os.getpid() != owner or loop.is_closed():
        return
    ended = asyncio.run_coroutine_threadsafe(client.close(), loop)
    ended.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
    if thread is not current_thread():
        thread.join()
        loop.close()


def _total(counts: Sequence[int | None]) -> int | None:
    """Of what was counted; null where nothing was."""
    known = [count for count in counts if count is not None]
    return min(sum(known), 2**31 - 1) if known else None
