"""A chat server on loopback that speaks OpenAI's protocol, with a tiny vision-language model behind it.

Answers come from transformers' own generate, seeded by the request.  A word beginning with @ in a prompt makes the
server misbehave as servers do: see ``FAULTS``.
"""

import asyncio
import base64
import json
import re
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from io import BytesIO
from typing import Any

import torch
from aiohttp import web
from PIL import Image

from pairsieve.filters._products import fixed
from tests import support_capfilt

MODEL = "tiny-llava"
KEY = "sk-very-secret"
CONTROL = "a\x00 red\x1b dog\n\non \ufffd a\t\ud800 table "
LONG = "word " * 20_000

Handler = Callable[["ChatStand", web.Request, dict[str, Any]], Awaitable[web.StreamResponse | None]]


@dataclass
class ChatStand:
    """The server and what it saw; ``status`` other than 200 is what everything is answered with.

    After ``status_after`` requests everything is answered with 500.
    """

    port: int = 0
    status: int = 200
    status_after: int | None = None
    key: str | None = None
    seen: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    delay: float = 0.0

    @property
    def url(self) -> str:
        """The base address."""
        return f"http://127.0.0.1:{self.port}/v1"


@cache
def _net() -> tuple[Any, Any]:
    folder, hf = support_capfilt.model("llava"), import_module("transformers")
    net = hf.AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True).eval()
    return net, hf.AutoProcessor.from_pretrained(folder, local_files_only=True, backend="pil")


_TURN = threading.Lock()


def generate(body: dict[str, Any]) -> tuple[list[str], int, int]:
    """The choices for a request, and its tokens: prompt, completion."""
    net, processor = _net()
    messages = [m | {"content": _parts(m["content"])} for m in body["messages"]]
    images = [part.pop("image") for m in messages for part in m["content"] if part["type"] == "image"]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    given = processor(text=prompt, images=images or None, return_tensors="pt")
    temperature = body.get("temperature", 1.0)
    sampling = {"do_sample": True, "temperature": temperature, "top_p": body.get("top_p", 1.0), "top_k": 0}
    with _TURN, fixed(), torch.random.fork_rng():
        torch.manual_seed(body.get("seed", 0))
        ids = net.generate(
            **given,
            max_new_tokens=min(body.get("max_tokens", 16), 12),
            num_return_sequences=body.get("n", 1),
            **(sampling if temperature else {"do_sample": False}),
        )
    new = ids[:, given["input_ids"].shape[1] :]
    return processor.batch_decode(new, skip_special_tokens=True), given["input_ids"].shape[1], int(new.numel())


def _parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [_part(part) for part in content]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return part
    kind, data = re.fullmatch(r"data:image/(\w+);base64,(.*)", part["image_url"]["url"], re.S).groups()  # type: ignore[union-attr]
    image = Image.open(BytesIO(base64.b64decode(data, validate=True)))
    if image.format != kind.upper():
        raise ValueError(f"{image.format} said to be {kind}")
    return {"type": "image", "image": image.convert("RGB")}


def answer(texts: list[str | None], usage: Any = None) -> web.Response:
    """A completion with these choices."""
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for i, text in enumerate(texts)
    ]
    return web.json_response({"object": "chat.completion", "choices": choices, "usage": usage})


def error(status: int, message: str, **headers: str) -> web.Response:
    """As OpenAI words it."""
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)


async def _busy(stand: ChatStand, _: web.Request, body: dict[str, Any]) -> web.Response | None:
    return error(429, "slow down", **{"Retry-After": "1"}) if _times(stand, body) == 1 else None


async def _twice(stand: ChatStand, _: web.Request, body: dict[str, Any]) -> web.Response | None:
    return error(500, "CUDA out of memory") if _times(stand, body) <= 2 else None


async def _hang(*_: Any) -> None:
    await asyncio.sleep(60)


async def _reset(stand: ChatStand, request: web.Request, body: dict[str, Any]) -> web.Response:
    assert request.transport
    request.transport.abort()
    return web.Response()


async def _plain(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status)


def _times(stand: ChatStand, body: dict[str, Any]) -> int:
    return stand.seen[_text(body)]


FAULTS: dict[str, Handler] = {
    "@busy": _busy,  # 429 once
    "@always429": lambda *_: _now(error(429, "slow down")),
    "@twice": _twice,  # 500 twice
    "@broken": lambda *_: _now(error(500, "CUDA error")),
    "@hang": _hang,
    "@reset": _reset,
    "@garbage": lambda *_: _plain("<html>it works</html>"),
    "@deep": lambda *_: _plain("[" * 200_000),
    "@huge": lambda *_: _plain(" " * 5_000_000),
    "@nochoice": lambda *_: _plain('{"choices": []}'),
    "@refused": lambda *_: _now(error(400, "maximum context length is 256 tokens")),
    "@empty": lambda *_: _now(answer([""])),
    "@null": lambda *_: _now(answer([None])),
    "@control": lambda *_: _now(answer([CONTROL])),
    "@long": lambda *_: _now(answer([LONG])),
    "@usage": lambda *_: _now(answer(["a dog"], {"prompt_tokens": -1, "completion_tokens": 2**40})),
    "@parts": lambda *_: _now(answer([[{"type": "text", "text": "a "}, {"type": "text", "text": "cat"}]])),  # type: ignore[list-item]
}


async def _now(response: web.Response) -> web.Response:
    return response


def _text(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(p.get("text", "") for p in content)


def _refusal(stand: ChatStand, request: web.Request, body: dict[str, Any]) -> web.Response | None:
    """What is wrong with a request before anything is computed."""
    if stand.status_after is not None and len(stand.bodies) >= stand.status_after:
        return error(500, f"no, {KEY}")
    if stand.status != 200:
        headers = {"Location": "http://127.0.0.1/elsewhere"} if 300 <= stand.status < 400 else {}
        return error(stand.status, f"no, {KEY}", **headers)
    if stand.key and request.headers.get("Authorization") != f"Bearer {stand.key}":
        return error(401, "Incorrect API key provided")
    if body["model"] != MODEL:
        return error(404, f"The model `{body['model']}` does not exist.")
    return None


@contextmanager
def chat_server(key: str | None = None, port: int = 0) -> Iterator[ChatStand]:
    """The server, in a thread of this process."""
    stand = ChatStand(key=key)

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        stand.at_once += 1
        stand.most_at_once = max(stand.most_at_once, stand.at_once)
        try:
            return await reply(request, body)
        finally:
            stand.at_once -= 1

    async def reply(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if refused := _refusal(stand, request, body):
            return refused
        stand.seen[_text(body)] += 1
        stand.bodies.append(body)
        await asyncio.sleep(stand.delay)
        for name, act in FAULTS.items():
            if name in _text(body) and (found := await act(stand, request, body)) is not None:
                return found
        try:
            texts, prompt, new = await asyncio.to_thread(generate, json.loads(json.dumps(body)))
        except Exception as refused:
            return error(400, str(refused))
        return answer([*texts], {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new})

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL}]})

    app = web.Application(client_max_size=50_000_000)
    app.add_routes([web.post("/v1/chat/completions", chat), web.get("/v1/models", models)])
    with _served(app, port) as stand.port:
        yield stand


@contextmanager
def _served(app: web.Application, port: int) -> Iterator[int]:
    """An application in a thread with a loop of its own; gives its port."""
    loop, runner = asyncio.new_event_loop(), web.AppRunner(app, shutdown_timeout=0.1, handle_signals=False)

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
        await site.start()
        return int(runner.addresses[0][1])

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(start(), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(_end(runner), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(runner: web.AppRunner) -> None:
    """Stop at once, whatever hangs."""
    await runner.cleanup()
    mine = asyncio.current_task()
    running = [task for task in asyncio.all_tasks() if task is not mine]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
