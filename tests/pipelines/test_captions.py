"""pairsieve captions score: figures of pycocoevalcap and of CLIPScore's definition, formats, and what goes wrong."""

import json
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from pairsieve.filters._chat_answers import cleaned
from pairsieve.pipelines import captions_java
from pairsieve.pipelines.captions import Items, Scores, matched, score
from pairsieve.pipelines.captions_clip import clip_scores, images_in
from pairsieve.pipelines.captions_read import Captions, of_run, read
from pairsieve.pipelines.cli import app
from pairsieve.pipelines.run import run
from pairsieve.schemas.errors import PairsieveError, UserError
from tests import support_capfilt, support_clip
from tests.support import recipe

pytest.importorskip("pycocoevalcap")
has_java = pytest.mark.skipif(not captions_java.has_java(), reason="needs Java")

REFERENCES = {
    "1": ["A man riding a horse on the beach.", "Someone rides a brown horse near the sea", "a rider, and his horse"],
    "2": ["Two dogs play with a ball", "Dogs are playing outside!"],
    "3": ["A plate of food (with a fork) on a table"],
    "42": ["Une dame dans un café – Zürich", "A woman's cup of coffee at the café"],
    "5": ["a red bus", "the bus is red", "a double-decker bus in London", "bus", "A bus drives by"],
    "6": ["nothing to see here"],
}
HYPOTHESES = {
    "1": ["a man rides a horse along the beach"],
    "2": ["two dogs playing with a ball outside"],
    "3": ["a plate of food with forks"],
    "42": ["a woman drinking coffee in a café"],
    "5": ["a red double-decker bus."],
    "6": [""],
}


def write(path: Path, texts: dict[str, list[str]]) -> str:
    """A file of the kind that its name says; ``.coco.json`` and ``.results.json`` are COCO's."""
    rows = [{"image_id": int(item), "caption": text} for item, found in texts.items() for text in found]
    if path.name.endswith(".coco.json"):
        path.write_text(json.dumps({"annotations": rows, "images": [{"id": 1, "file_name": "a.jpg"}]}))
    elif path.name.endswith(".results.json"):
        path.write_text(json.dumps(rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(texts))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": item, "captions": found}) + "\n" for item, found in texts.items()))
    else:
        pq.write_table(
            pa.table({"uid": list(texts), "references": list(texts.values()), "other": range(len(texts))}), path
        )
    return str(path)


def literal() -> tuple[dict[str, float], dict[str, list[float]]]:
    """COCO's evaluation as pycocoevalcap does it, METEOR beside the rest: loading takes it seconds."""
    tokens = [
        import_module("pycocoevalcap.tokenizer.ptbtokenizer")
        .PTBTokenizer()
        .tokenize({item: [{"caption": text} for text in found] for item, found in texts.items()})
        for texts in (REFERENCES, HYPOTHESES)
    ]
    whole: dict[str, float] = {}
    each: dict[str, list[float]] = {}
    with_meteor = (
        " " not in import_module("pycocoevalcap").__path__[0]
    )  # its own METEOR fails there, and hangs at its end
    for name, module in (
        ("rouge_l", "rouge.rouge:Rouge"),
        ("cider", "cider.cider:Cider"),
        ("meteor", "meteor.meteor:Meteor"),
    ):
        if name == "meteor" and not with_meteor:
            continue
        file, kind = module.split(":")
        value, values = getattr(import_module(f"pycocoevalcap.{file}"), kind)().compute_score(*tokens)
        whole[name], each[name] = float(value), list(map(float, values))
    values, rows = import_module("pycocoevalcap.bleu.bleu").Bleu(4).compute_score(*tokens, verbose=0)
    for n in range(4):
        whole[f"bleu_{n + 1}"], each[f"bleu_{n + 1}"] = float(values[n]), list(map(float, rows[n]))
    return whole, each


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both sides in a folder."""
    folder = tmp_path_factory.mktemp("captions")
    write(folder / "refs.coco.json", REFERENCES)
    write(folder / "hyps.results.json", HYPOTHESES)
    return folder


def items() -> Items:
    """What is scored in most tests."""
    return matched(Captions(HYPOTHESES), Captions(REFERENCES))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # pycocoevalcap leaves its pipes open
@has_java
def test_cocos_figures(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every figure, of all and of each item, is pycocoevalcap's own; no file is left anywhere."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    package = Path(next(iter(find_spec("pycocoevalcap").submodule_search_locations)))  # type: ignore[union-attr,arg-type]
    with ThreadPoolExecutor(1) as beside:
        expected = beside.submit(literal)
        arguments = [
            str(files / "hyps.results.json"),
            str(files / "refs.coco.json"),
            "--out",
            str(files / "each.parquet"),
        ]
        done = CliRunner().invoke(app, ["captions", "score", *arguments, "--json"])
        whole, each = expected.result()
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["scores"] == pytest.approx({"meteor": found["scores"]["meteor"]} | whole, abs=1e-12)
    assert [found[name] for name in ("items", "empty", "unanswered", "unknown")] == [6, 1, 0, 0]
    table = pq.read_table(files / "each.parquet")
    assert table["id"].to_pylist() == list(REFERENCES)
    assert {name: table[name].to_pylist() for name in each} == {
        name: pytest.approx(v, abs=1e-12) for name, v in each.items()
    }
    assert 0.2 < found["scores"]["meteor"] < 0.6 and found["scores"]["cider"] > 0.5
    assert not list(tmp_path.iterdir()) and not [f for f in package.rglob("tmp*") if f.is_file()]


@has_java
def test_another_library_agrees() -> None:
    """BLEU-4 is sacrebleu's of the same words, without smoothing."""
    sacrebleu = import_module("sacrebleu")
    some = items()
    texts = [some.hypotheses, *some.references]
    flat = captions_java.tokenized([text for part in texts for text in part])
    said, rest = flat[:6], iter(flat[6:])
    known = [[next(rest) for _ in part] for part in some.references]
    streams = [[part[i] if i < len(part) else None for part in known] for i in range(5)]
    other = sacrebleu.corpus_bleu(said, streams, tokenize="none", smooth_method="none").score
    assert score(some, ["bleu"]).whole["bleu_4"] * 100 == pytest.approx(other, abs=1e-4)


@has_java
def test_hostile_texts() -> None:
    """Every text has its own line, whatever characters are in it; METEOR's separator is no separator there."""
    texts = [
        "a\nb",
        "a\rb\u2028c",
        "a ||| b",
        "\x00\x1b[2J",
        "",
        " ",
        "日本語 の 猫",
        "😀 \ud800 x",
        "word " * 5000,
        "%s \\n {}",
    ]
    some = [cleaned(text) or "" for text in texts]
    found = captions_java.tokenized(some)
    assert len(found) == len(some) and found[0] == "a b" and found[4] == "" and found[6] == "日本語 の 猫"
    assert found[8] == ("word " * 4000).strip()[:20_000].strip()


@pytest.mark.parametrize("ends", [".json", ".jsonl", ".parquet", ".coco.json"])
def test_formats(tmp_path: Path, ends: str) -> None:
    """Each format holds the same captions; ids are compared as text."""
    assert read(write(tmp_path / f"refs{ends}", REFERENCES)).texts == REFERENCES
    named = read(write(tmp_path / "refs.coco.json", REFERENCES)).files
    assert named == {"1": "a.jpg"}


TEXT = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"]), min_size=1, max_size=20).filter(cleaned)


@given(st.dictionaries(st.integers(0, 999).map(str), st.lists(TEXT, min_size=1, max_size=3), min_size=1, max_size=5))
@hypothesis_settings(max_examples=30)
def test_any_captions(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, list[str]]) -> None:
    """Whatever is written in any format is read, but for its white space."""
    folder = tmp_path_factory.mktemp("any")
    expected = {item: [cleaned(text) for text in found] for item, found in texts.items()}
    for ends in (".json", ".jsonl", ".parquet", ".results.json"):
        assert read(write(folder / f"x{ends}", texts)).texts == expected


def test_matching() -> None:
    """Items are those of both sides; others are counted, an empty caption counts as nothing said."""
    found = matched(
        Captions({"a": ["x", "y"], "b": [], "z": ["z"]}), Captions({"b": ["r"], "a": ["", "q"], "c": ["s"], "z": [""]})
    )
    assert (found.ids, found.hypotheses, found.references) == (["b", "a"], ["", "x"], [["r"], ["q"]])
    assert (found.empty, found.unanswered, found.unknown) == (1, 1, 1)
    second = matched(Captions({"a": ["x", "y"], "b": ["z"]}), Captions({"a": ["q"], "b": ["r"]}), 2)
    assert second.hypotheses == ["y", ""]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "", "cannot be read"),
        ("x.json", "[1]", "a row is int"),
        ("x.json", '{"a": {"b": 1}}', "the caption of 'a' is dict"),
        ("x.json", '[{"image_id": 1.5, "caption": "x"}]', "an id is float"),
        ("x.json", '[{"image_id": 1, "words": "x"}]', "none of caption"),
        ("x.json", "[" * 100_000, "cannot be read"),
        ("x.json", "{}", "no captions in it"),
        ("x.jsonl", '{"id": 1, "caption": "x"}\n{', "cannot be read"),
        ("x.parquet", "PAR1", "cannot be read"),
        ("x.json", "\udcff", "cannot be read"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    """A file that holds no captions is named in one line."""
    (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=message) as caught:
        read(str(tmp_path / name))
    assert "\n" not in str(caught.value) and name in str(caught.value)


def program(folder: Path, text: str) -> None:
    """A ``java`` that comes first."""
    file = folder / "java"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IEXEC)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exec sleep 60", "METEOR failed or did not end in time"),
        ("exit 3", "METEOR failed or did not end in time; java ended with 3"),
        ("while read line; do echo x; echo x; done", "METEOR gave no numbers"),
    ],
)
def test_a_java_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    """A Java program that hangs, dies or talks nonsense ends with one line, in time."""
    program(tmp_path, text)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(captions_java, "SECONDS", 1.0)
    with pytest.raises(UserError, match=message):
        captions_java.meteor(["a dog"] * 3, [["a dog"]] * 3)


def test_a_full_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More text than pipes hold goes both ways at once."""
    program(tmp_path, "exec cat")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    texts = [f"text {i} " + "word" * 100 for i in range(5000)]
    assert captions_java.tokenized(texts) == texts


def test_without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Java there is one line; with words already cut the rest works, METEOR left out and said to be."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"the tokenizer needs Java .*--tokenizer none"):
        score(items())
    found = score(items(), tokenizer="none")
    assert set(found.whole) == {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"}
    assert found.notes == ["without METEOR, which needs Java (apt install default-jre-headless)"]
    with pytest.raises(UserError, match="METEOR needs Java"):
        score(items(), ["meteor"], "none")
    perfect = Items(["1", "2"], ["a b c d", "e f g h"], [["a b c d"], ["e f g h"]])
    assert score(perfect, ["bleu", "rouge_l", "cider"], "none").whole == pytest.approx(
        {"bleu_1": 1, "bleu_2": 1, "bleu_3": 1, "bleu_4": 1, "rouge_l": 1, "cider": 10}, abs=1e-6
    )
    alone = Items(["1"], ["a b c d"], [["a b c d"]])
    assert score(alone, ["cider"], "none").notes == [
        "CIDEr weighs words by how few items have them: of one item it is 0"
    ]
    assert score(items(), ["sacrebleu"]).whole["sacrebleu"] > 5


def picture(seed: int) -> bytes:
    """A photo-like PNG."""
    out = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def model() -> Iterator[Path]:
    """A tiny CLIP model."""
    pytest.importorskip("open_clip")
    yield support_capfilt.model("clip")


def test_clip_scores(model: Path, tmp_path: Path) -> None:
    """CLIPScore and RefCLIPScore by their definition over open_clip's own loop; images lost are left out and said."""
    from pairsieve.filters._clip_model import ClipModel

    for i, item in enumerate(list(HYPOTHESES)[:5]):
        (tmp_path / f"{item}.png").write_bytes(picture(i) if i else b"broken")
    found = clip_scores(ClipModel(model=str(model), device="cpu").load(), items(), images_in(str(tmp_path), items()))
    expected: list[tuple[float, float]] = []
    for i, item in list(enumerate(HYPOTHESES))[1:5]:
        texts = [f"A photo depicts {text}" for text in (HYPOTHESES[item][0], *REFERENCES[item])]
        made = [support_clip.reference(model, picture(i), text) for text in texts]
        clip = 2.5 * max(made[0]["score"], 0)
        ref = max(max(float(made[0]["text"] @ other["text"]) for other in made[1:]), 0)
        expected.append((clip, 2 * clip * ref / (clip + ref) if clip + ref else 0))
    for k, name in enumerate(("clipscore", "refclipscore")):
        assert found.each[name][1:5] == pytest.approx([row[k] for row in expected], abs=1e-5)
        assert found.whole[name] == pytest.approx(np.mean([row[k] for row in expected]), abs=1e-5)
        assert np.isnan(found.each[name][0]) and np.isnan(found.each[name][5])
    assert found.notes == ["CLIPScore without 2 items, whose images cannot be read"]


def test_files_outside(tmp_path: Path) -> None:
    """A caption file cannot name an image outside the folder."""
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(picture(0))
    some = Items(["a", "b"], ["x", "y"], [["x"], ["y"]], {"a": "../secret.png", "b": str(tmp_path / "secret.png")})
    assert list(images_in(str(tmp_path / "in"), some)) == [("a", None), ("b", None)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over a pool with captions and images in it."""
    folder = tmp_path_factory.mktemp("run")
    texts = [REFERENCES[item][0] for item in REFERENCES]
    made = [[None, "x"] if item == "6" else [*HYPOTHESES[item], "other"] for item in REFERENCES]
    columns = {
        "url": [f"http://e.org/{i}" for i in range(6)],
        "text": texts,
        "llm": pa.array(made, pa.list_(pa.string())),
        "rank": range(6),
    }
    pq.write_table(pa.table(columns), folder / "pool.parquet")
    run(recipe(folder / "pool.parquet", {"tests.support_filters:Painted": None}), folder / "run")
    return folder / "run"


def test_runs(finished: Path, model: Path) -> None:
    """A run's column of captions is scored against its texts, with its images, for the pairs that are asked for."""
    arguments = ["captions", "score", "--run", str(finished), "--caption", "llm", "--tokenizer", "none", "--json"]
    done = CliRunner().invoke(app, [*arguments, "--metrics", "bleu", "--clip-model", str(model), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["items"] == 6 and found["empty"] == 1 and not found["notes"]
    one, other = of_run(str(finished), "llm", "text", None)
    assert found["scores"]["bleu_1"] == score(matched(one, other), ["bleu"], "none").whole["bleu_1"] > 0.3
    assert 0 <= found["scores"]["clipscore"] <= 2.5
    some = CliRunner().invoke(app, [*arguments, "--metrics", "bleu", "--where", "rank < 2", "--number", "2"])
    assert json.loads(some.stdout)["items"] == 2 and json.loads(some.stdout)["scores"]["bleu_1"] < 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give captions and references"),
        (["a.json"], "give captions and references"),
        (["none.json", "none.json"], "none.json: no such file"),
        (["HYPS", "REFS", "--metrics", "spice"], "not offered"),
        (["HYPS", "REFS", "--metrics", "blue"], "--metrics blue: there are bleu"),
        (["HYPS", "REFS", "--tokenizer", "moses"], "there are ptb, none"),
        (["HYPS", "REFS", "--images", "x"], "--images goes with --clip-model"),
        (["HYPS", "REFS", "--clip-model", "no-model"], "--clip-model no-model"),
        (["HYPS", "REFS", "--where", "x"], "--where goes with --run"),
        (["HYPS", "REFS", "--run", "x"], "not both"),
        (["--run", "nowhere"], "no finished run here"),
        (["--run", "RUN"], 'column "caption" not found'),
        (["--run", "RUN", "--caption", "rank"], "name columns of texts"),
        (["--run", "RUN", "--caption", "llm", "--where", "drop table"], "syntax error"),
        (["--run", "RUN", "--caption", "llm", "--where", "false"], "no pair has both"),
    ],
)
def test_mistakes(files: Path, finished: Path, arguments: list[str], message: str) -> None:
    """What cannot be scored is one line."""
    paths = {"HYPS": str(files / "hyps.results.json"), "REFS": str(files / "refs.coco.json"), "RUN": str(finished)}
    done = CliRunner().invoke(app, ["captions", "score", *(paths.get(a, a) for a in arguments)])
    assert isinstance(done.exception, PairsieveError), done.output
    assert message.lower() in str(done.exception).lower() and "\n" not in str(done.exception)


def test_page(files: Path) -> None:
    """Without --json there is a table, and a line of what was counted."""
    arguments = [str(files / "hyps.results.json"), str(files / "refs.coco.json"), "--tokenizer", "none"]
    done = CliRunner().invoke(app, ["captions", "score", *arguments, "--metrics", "bleu,cider"])
    assert "bleu_4" in done.stdout and "cider" in done.stdout
    assert "6 items; 1 of them with an empty caption" in done.stdout


def test_no_number_is_no_number() -> None:
    """A figure that is not one is null for programs."""
    from pairsieve.pipelines.captions import summary

    assert summary(Scores({"x": float("nan")}), items())["scores"] == {"x": None}


def test_added_pairs_are_not_scored_against_themselves(tmp_path: Path) -> None:
    """A caption that ``choose`` made a pair of is its own text."""
    kinds = {"caption": pa.list_(pa.string()), "text": pa.string()}
    table = {name: pa.array(values, kinds[name]) for name, values in (("caption", [["a b"]]), ("text", ["c d"]))}
    pq.write_table(pa.table({**table, "image": [b"x"]}), tmp_path / "p.parquet")
    spec = {"path": str(tmp_path / "p.parquet"), "columns": ["caption"]}
    steps = [{"choose": {"texts": ["text", "caption"]}}]
    result = run({"pool": {"pairs": spec}, "filters": steps}, tmp_path / "run")
    hypotheses, references = of_run(result.root, "caption", "text", "dropped_by IS NULL")
    assert result.added == 1 and list(references.texts.values()) == [["c d"]]
    assert list(hypotheses.texts.values()) == [["a b"]]


def test_a_bad_line_is_named_by_its_number(tmp_path: Path) -> None:
    """As editors count them."""
    (tmp_path / "x.jsonl").write_text('{"id": 1, "caption": "a"}\n\n{"id": 2,\n')
    with pytest.raises(UserError, match="line 3"):
        read(str(tmp_path / "x.jsonl"))
