"""rewrite: prompts of columns, LaCLIP's and CapsFusion's settings, tokens, verdicts, and real runs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pairsieve.filters._chat_answers import cleaned
from pairsieve.filters.base import UnknownColumnError
from pairsieve.filters.rewrite import Rewrite
from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from pairsieve.schemas.errors import PairsieveError, RecipeError
from tests.support import digests, recipe
from tests.support_chat_server import KEY, MODEL, ChatStand, chat_server, generate

QUICK: dict[str, Any] = {"timeout": 5, "retries": 1, "backoff": 0.02, "patience": 5}
STRING, LIST = pa.string(), pa.list_(pa.string())


@pytest.fixture(scope="module")
def stand() -> Iterator[ChatStand]:
    """One server for the tests that leave it as it was."""
    with chat_server() as found:
        yield found


def server(stand: ChatStand, **chosen: Any) -> dict[str, Any]:
    """The server's settings."""
    return {"url": stand.url, "model": MODEL, "temperature": 0.9} | QUICK | chosen


def scores(made: Rewrite, columns: dict[str, list[Any]], size: int = 100) -> dict[str, list[Any]]:
    """What the filter writes for pairs whose uids are their numbers, given in batches of ``size``."""
    rows = len(next(iter(columns.values())))
    given = {name: pa.array(values, LIST if _is_list(values) else STRING) for name, values in columns.items()}
    pairs = pa.record_batch({"uid": [f"{i:032x}" for i in range(rows)], **given})
    made.open()
    try:
        parts = list(made.score_all(pairs.slice(i, size) for i in range(0, rows, size)))
    finally:
        made.close()
    assert all(part[name].type == kind for part in parts for name, kind in made.outputs({}).items())
    return {name: [value for part in parts for value in part[name].to_pylist()] for name in parts[0]}


def _is_list(values: list[Any]) -> bool:
    return any(isinstance(value, list) for value in values)


def test_batches(stand: ChatStand) -> None:
    """Rewrites depend on the pair and the seed alone: not on batches, numbers in flight, or neighbours."""
    texts = [f"a red dog near house {i}" for i in range(6)]
    whole, parts = (
        Rewrite(server=server(stand, concurrency=n), prompts=("describe {text}", "this {text}"), count=2)
        for n in (64, 2)
    )
    found = scores(whole, {"text": texts})
    assert scores(parts, {"text": texts}, 2) == found
    assert all(len(row) == 4 == len(set(row)) for row in found["rewrite"])
    other = Rewrite(server=server(stand), prompts=("describe {text}", "this {text}"), count=2, seed=1)
    assert scores(other, {"text": texts})["rewrite"] != found["rewrite"]


def test_order_of_prompts(stand: ChatStand) -> None:
    """Rewrites are in the order of the prompts, and of one prompt in that of their numbers, each with its seed."""
    stand.bodies.clear()
    made = Rewrite(server=server(stand, concurrency=1), prompts=("one {text}", "two {text}"), count=2)
    (found,) = scores(made, {"text": ["a dog"]})["rewrite"]
    asked = stand.bodies[1:]
    assert [body["messages"][0]["content"] for body in asked] == ["one a dog"] * 2 + ["two a dog"] * 2
    assert len({body["seed"] for body in asked}) == 4
    assert found == [cleaned(generate(body)[0][0]) for body in asked]


def test_columns_in_prompts(stand: ChatStand) -> None:
    """CapsFusion's kind of prompt: the text and a caption; where either is missing nothing is asked."""
    stand.bodies.clear()
    made = Rewrite(server=server(stand, concurrency=1), prompts=("1: {text} 2: {caption}",))
    captions = [["a dog", "a cat"], None, [None, "a house"], []]
    found = scores(made, {"text": ["web text", "alone", "x", "y"], "caption": captions})
    assert [body["messages"][0]["content"] for body in stand.bodies[1:]] == ["1: web text 2: a dog", "1: x 2: a house"]
    assert found["rewrite_error"] == [None, "no_text", None, "no_text"]
    assert [row is None for row in found["rewrite"]] == [False, True, False, True]
    assert [n is None for n in found["rewrite_prompt_tokens"]] == [False, True, False, True]


def test_texts_are_cut(stand: ChatStand) -> None:
    """A text of any length or with any characters fills at most ``words`` words of one line."""
    stand.bodies.clear()
    made = Rewrite(server=server(stand), prompts=("{text}",), words=3)
    scores(made, {"text": ["a b\x00c\nd " * 50_000]})
    assert stand.bodies[-1]["messages"][0]["content"] == "a bc d"


def test_tokens(stand: ChatStand) -> None:
    """Tokens of all requests of a pair are added up, as the server counted them."""
    stand.bodies.clear()
    made = Rewrite(server=server(stand), prompts=("describe {text}",), count=3)
    found = scores(made, {"text": ["a red dog"]})
    counted = [generate(body)[1:] for body in stand.bodies[1:]]
    assert found["rewrite_prompt_tokens"] == [sum(prompt for prompt, _ in counted)]
    assert found["rewrite_completion_tokens"] == [sum(new for _, new in counted)]


def test_together(stand: ChatStand) -> None:
    """All rewrites by a prompt in one request: the prompt is paid for once."""
    stand.bodies.clear()
    made = Rewrite(server=server(stand, together=True), prompts=("describe {text}",), count=3)
    found = scores(made, {"text": ["a red dog"]})
    (body,) = stand.bodies[1:]
    assert body["n"] == 3 and found["rewrite"] == [[cleaned(text) for text in generate(body)[0]]]
    assert found["rewrite_prompt_tokens"] == [generate(body)[1]]


def test_best_of_several(stand: ChatStand) -> None:
    """Where a server is asked for more choices by a field of its own, as for beam search, the first is taken."""
    made = Rewrite(server=server(stand, fields={"n": 3}), prompts=("describe {text}",))
    (found,) = scores(made, {"text": ["a red dog"]})["rewrite"]
    assert found == [cleaned(generate(stand.bodies[-1])[0][0])] and stand.bodies[-1]["n"] == 3


def test_errors(stand: ChatStand) -> None:
    """A failing pair has a null list and a reason, and one that fails in part counts what is missing."""
    made = Rewrite(server=server(stand), prompts=("{text}",), count=2)
    texts = ["a dog", "@empty", "@null", "@refused", None, "@control", "@garbage"]
    found = scores(made, {"text": texts})
    assert found["rewrite_error"] == [
        None,
        "no_rewrite",
        "no_rewrite",
        "server_refused",
        "no_text",
        None,
        "server_garbage",
    ]
    assert [row is None for row in found["rewrite"]] == [False, True, True, True, True, False, True]
    assert found["rewrite"][5] == ["a red dog on a table"] * 2
    made = Rewrite(server=server(stand), prompts=("{text}", "@refused {text}"))
    part = scores(made, {"text": ["a dog"]})
    assert part["rewrite"][0][0] and part["rewrite"][0][1] is None and part["rewrite_error"] == [None]
    assert part["rewrite_failed"] == [1]


def test_short_rewrites(stand: ChatStand) -> None:
    """LaCLIP's rule: the text stands in for a rewrite of fewer than two words; an empty one is null all the same."""
    made = Rewrite(server=server(stand, max_tokens=1), prompts=("{text}",), min_words=2)
    found = scores(made, {"text": ["a red dog", "@empty", "@parts"]})
    assert found["rewrite"] == [["a red dog"], None, ["a cat"]]
    assert found["rewrite_error"] == [None, "no_rewrite", None]


def test_examples(stand: ChatStand) -> None:
    """LaCLIP's worked examples: three a request, drawn by pair and number."""
    stand.bodies.clear()
    pairs = [(f"source {i}", f"target {i}") for i in range(9)]
    prompt = {"prompt": "write captions differently\n\n{examples}\n\n{text} =>", "examples": pairs}
    scores(Rewrite(server=server(stand), prompts=(prompt,), count=2), {"text": ["a dog", "a cat"]})
    asked = [body["messages"][0]["content"] for body in stand.bodies[1:]]
    assert len(set(asked)) == 4 and all(text.count(" => target ") == 3 for text in asked)


def test_requests(stand: ChatStand) -> None:
    """Settings reach the server under OpenAI's names; those that are null do not."""
    stand.bodies.clear()
    chosen = {"system": "be brief", "top_p": 0.95, "stop": ["\n"], "fields": {"top_k": 50}, "max_tokens": 7}
    scores(Rewrite(server=server(stand, **chosen), prompts=("{text}",)), {"text": ["a dog"]})
    body = stand.bodies[-1]
    assert body["messages"][0] == {"role": "system", "content": "be brief"}
    assert {name: body[name] for name in ("top_p", "stop", "top_k", "max_tokens", "temperature")} == {
        "top_p": 0.95,
        "stop": ["\n"],
        "top_k": 50,
        "max_tokens": 7,
        "temperature": 0.9,
    }
    assert 0 <= body["seed"] < 2**31 and "n" not in body
    scores(Rewrite(server=server(stand, temperature=None, max_tokens=None), prompts=("{text}",)), {"text": ["a dog"]})
    assert {"temperature", "max_tokens", "top_p", "stop"}.isdisjoint(stand.bodies[-1])


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        (("{captoin}",), UnknownColumnError, "did you mean 'caption'"),
        (("{width}",), ValueError, "'width' .int32. holds no texts"),
        (("{examples} {text}",), ValueError, "go together"),
        (({"prompt": "{text}", "examples": [("a", "b")]},), ValueError, "go together"),
    ],
)
def test_check(prompts: Any, error: type[Exception], message: str) -> None:
    """A prompt that cannot be filled is refused before anything is asked."""
    made = Rewrite(server={"url": "http://h", "model": "m"}, prompts=prompts)
    with pytest.raises(error, match=message):
        made.check({"text": STRING, "caption": LIST, "width": pa.int32()})


def test_wrong_settings() -> None:
    """A rewrite needs a prompt, and a server."""
    with pytest.raises(ValidationError, match="at least 1 item"):
        Rewrite(server={"url": "http://h", "model": "m"}, prompts=())
    with pytest.raises(ValidationError, match="server"):
        Rewrite(prompts=("{text}",))  # type: ignore[call-arg]


def made_of(folder: Path, stand: ChatStand, **chosen: Any) -> dict[str, Any]:
    """A recipe over 30 texts in shards of 10, of which some fail."""
    folder.mkdir(exist_ok=True)
    texts = [f"{'@refused ' if i % 7 == 3 else ''}a red dog near house {i}" if i % 9 else None for i in range(30)]
    table = pa.table({"url": [f"http://e.org/{i}" for i in range(30)], "text": pa.array(texts, STRING)})
    pq.write_table(table, folder / "pool.parquet")
    steps = {"server": server(stand, **chosen), "prompts": ["describe {text}"], "required": True, "as": "llm"}
    made = recipe("", {"rewrite": steps}, seed=0)
    made["pool"]["urls"] = {"path": str(folder / "pool.parquet"), "shard_rows": 10}
    return made


def rewritten(folder: Path, stand: ChatStand, workers: int = 1, **chosen: Any) -> Result:
    """A run of it."""
    return run(made_of(folder, stand, **chosen), folder / "run", workers=workers)


def test_runs(stand: ChatStand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker and two write the same bytes; every pair has its verdict, and a query tells what it cost."""
    one, two = rewritten(tmp_path / "one", stand), rewritten(tmp_path / "two", stand, 2, concurrency=3)
    assert digests(tmp_path / "one" / "run") == digests(tmp_path / "two" / "run")
    lost = [sum(i % 9 == 0 for i in range(30)), sum(i % 7 == 3 and i % 9 != 0 for i in range(30))]
    assert one.tally.dropped == {("llm", "no_text"): lost[0], ("llm", "server_refused"): lost[1]}
    assert one.kept == 30 - sum(lost) == two.kept
    sql = "SELECT sum(llm_prompt_tokens) AS tokens, count(llm) AS lists FROM scores"
    (cost,) = one.query(sql).to_pylist()
    assert cost["lists"] == one.kept and cost["tokens"] > 100
    stand.bodies.clear()
    again = rewritten(tmp_path / "one", stand, concurrency=2)
    assert again.kept == one.kept and not stand.bodies


def test_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose server goes away stops with one line and, once it is back, ends as if nothing had happened."""
    monkeypatch.setenv("TEST_CHAT_KEY", KEY)
    with chat_server(key=KEY) as stand:
        whole = rewritten(tmp_path / "whole", stand, api_key_env="TEST_CHAT_KEY")
        asked = len(stand.bodies)
        stand.bodies.clear()
        stand.status_after = asked // 2
        with pytest.raises(
            PairsieveError, match=r"server http://.*failed 4 requests on end \(the last: HTTP 500: no, \*\*\*"
        ):
            rewritten(tmp_path / "cut", stand, api_key_env="TEST_CHAT_KEY", give_up=4, retries=0, concurrency=2)
        stand.status_after = None
        again = rewritten(tmp_path / "cut", stand, api_key_env="TEST_CHAT_KEY")
    assert digests(tmp_path / "whole" / "run") == digests(tmp_path / "cut" / "run")
    assert whole.kept == again.kept
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any(KEY.encode() in path.read_bytes() for path in files)


def test_killed(stand: ChatStand, tmp_path: Path) -> None:
    """A run that is killed with requests in flight ends, when it is started again, as one that was not."""
    whole = rewritten(tmp_path / "whole", stand)
    stand.bodies.clear()
    stand.delay = 0.1
    recipe_file = tmp_path / "recipe.json"
    recipe_file.write_text(json.dumps(made_of(tmp_path / "cut", stand, concurrency=1)))
    command = [sys.executable, "-m", "pairsieve", "run", str(recipe_file), "--out", str(tmp_path / "cut" / "run")]
    with subprocess.Popen([*command, "--workers", "2"], start_new_session=True, stderr=subprocess.DEVNULL) as process:
        while len(stand.bodies) < 15 and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    stand.delay = 0.0
    assert process.returncode == -signal.SIGKILL
    again = rewritten(tmp_path / "cut", stand, 2)
    assert again.kept == whole.kept and again.tally == whole.tally
    assert digests(tmp_path / "whole" / "run") == digests(tmp_path / "cut" / "run")


@pytest.mark.parametrize(
    "chosen", [{"api_key_env": "sk-hunter2"}, {"url": "http://a:hunter2@h"}, {"url": "http://h?k=hunter2"}]
)
def test_secrets_in_recipes(tmp_path: Path, chosen: dict[str, str]) -> None:
    """A recipe with a key in it is refused with a line that does not repeat the key."""
    steps = {"server": {"url": "http://h", "model": "m"} | chosen, "prompts": ["{text}"]}
    with pytest.raises(RecipeError, match=r"rewrite\.server") as caught:
        run(recipe(tmp_path / "pool.csv", {"rewrite": steps}), tmp_path / "run")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("a {", "a single '{'"), ({"prompt": "a }"}, "a single '}'"), ({"promt": "a"}, "prompt"), (3, "prompts")],
)
def test_wrong_prompts_in_recipes(tmp_path: Path, prompt: Any, message: str) -> None:
    """A prompt that is none is one line at its place."""
    steps = {"server": {"url": "http://h", "model": "m"}, "prompts": ["{text}", prompt]}
    with pytest.raises(RecipeError, match=r"rewrite\.prompts\.1") as caught:
        run(recipe(tmp_path / "pool.csv", {"rewrite": steps}), tmp_path / "run")
    assert message in str(caught.value) and "\n" not in str(caught.value)
