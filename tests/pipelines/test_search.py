"""pairsieve search: what a text or an image finds in a run, by which model, and what a terminal is shown."""

import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import pairsieve
from pairsieve.filters._clip import Clip
from pairsieve.filters._clip_model import ClipModel
from pairsieve.filters._preprocess import Preprocess, normalised, pixels
from pairsieve.pipelines.cli import app
from pairsieve.pipelines.demo_pool import PlantedPair, build_pool
from pairsieve.pipelines.demo_replies import image_bytes
from pairsieve.pipelines.run import run
from pairsieve.pipelines.search import Found, Hit, Query, search
from pairsieve.pipelines.search_columns import Model
from pairsieve.pipelines.search_page import shown
from pairsieve.schemas.errors import MissingExtraError, PairsieveError, QueryError, UserError
from tests import support_datacomp

pytest.importorskip("open_clip")

ROWS = 250
TEXT = "a drawing of one red circle"
HOSTILE = "\x1b]0;evil\x07\x1b[2J one \u202e red circle\r\n[bold]x[/bold]"


@pytest.fixture(scope="module")
def demo() -> Clip:
    """The packaged model."""
    return ClipModel(model="pairsieve-demo", precision="fp32", device="cpu").load()


@pytest.fixture(scope="module")
def planted() -> list[PlantedPair]:
    """Pairs of the demo's world."""
    return build_pool().members(None)[:ROWS]


@pytest.fixture(scope="module")
def texts(planted: list[PlantedPair]) -> list[str]:
    """Captions, one of them hostile, every tenth of one word."""
    found = [str(pair.text) if i % 10 else "word" for i, pair in enumerate(planted)]
    found[7] = HOSTILE
    return found


@pytest.fixture(scope="module")
def vectors(demo: Clip, planted: list[PlantedPair]) -> NDArray[np.float16]:
    """Of the captions as they were planted."""
    return demo.texts([str(pair.text) for pair in planted]).astype(np.float16)


def uid(row: int) -> str:
    """Of a row of the pool."""
    return f"{row * 7919 % ROWS:032x}"


def write_pool(folder: Path, texts: list[str], vectors: NDArray[np.float16], planted: list[PlantedPair]) -> Any:
    """A pool of images with stored embeddings; the fourth pair has none.  A recipe that drops one-word captions."""
    rows: list[Any] = [*vectors]
    rows[3] = None
    columns = {
        "uid": [uid(i) for i in range(ROWS)],
        "image": [image_bytes(pair) for pair in planted],
        "url": [f"http://e.org/{i}.jpg" for i in range(ROWS)],
        "text": texts,
        "fixed": pa.array(rows, pa.list_(pa.float16(), vectors.shape[1])),
        "loose": pa.array(rows, pa.list_(pa.float32())),
        "odd": np.arange(ROWS) % 2,
    }
    pq.write_table(pa.table(columns), folder / "x.parquet", row_group_size=40)
    spec = {"path": str(folder / "x.parquet"), "columns": ["fixed", "loose", "odd"], "shard_rows": 40}
    return {"pool": {"pairs": spec}, "filters": [{"caption_words": {"least": 2}}], "output": {"subset": "s.npy"}}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, texts: Any, vectors: Any, planted: Any) -> Any:
    """The recipe over the pool."""
    return write_pool(tmp_path_factory.mktemp("search"), texts, vectors, planted)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, recipe: Any) -> str:
    """A run over it."""
    folder = tmp_path_factory.mktemp("finished")
    run(recipe, folder / "run", engine="local", workers=1)
    return str(folder / "run")


def look(finished: str, text: str = TEXT, **settings: Any) -> Found:
    """Search for a text in the embeddings that came with the pool."""
    wanted = Query(text, model="pairsieve-demo", device="cpu")
    return search(finished, wanted, **{"embeddings": "fixed"} | settings)


def ranking(demo: Clip, vectors: NDArray[np.float16]) -> list[int]:
    """Rows by cosine with the text, equal ones by uid; as numpy has it."""
    (query,) = demo.texts([TEXT]).astype(np.float64)
    wide = vectors.astype(np.float64)
    cosines = wide @ query / np.linalg.norm(wide, axis=1) / np.linalg.norm(query)
    return sorted((i for i in range(ROWS) if i != 3), key=lambda i: (-round(float(cosines[i]), 6), uid(i)))


@pytest.mark.parametrize("column", ["fixed", "loose"])
def test_it_finds_what_is_nearest(finished: str, demo: Clip, vectors: Any, texts: Any, column: str) -> None:
    """All pairs in their order, with caption, address and verdict; a pair without an embedding is not among them."""
    found = look(finished, embeddings=column, top=ROWS)
    order = ranking(demo, vectors)
    assert [hit.uid for hit in found.hits] == [uid(i) for i in order]
    for hit, i in zip(found.hits, order, strict=True):
        verdict = (None, None) if len(texts[i].split()) > 1 else ("caption_words", "too_few_words")
        assert (hit.text, hit.url) == (texts[i], f"http://e.org/{i}.jpg")
        assert (hit.dropped_by, hit.reason) == verdict
    assert (found.column, found.model, found.vectors) == (column, "pairsieve-demo", ROWS - 1)


def test_workers_change_nothing(finished: str) -> None:
    """Nor does how many pairs are asked for."""
    one, two, all_ = (look(finished, top=top, workers=workers) for top, workers in ((15, 1), (15, 3), (ROWS, 1)))
    assert one.hits == two.hits == all_.hits[:15]


def test_kept_and_where_choose_pairs(finished: str, demo: Clip, vectors: Any, texts: Any) -> None:
    """Only those are compared; both together too."""
    order = ranking(demo, vectors)
    stays = [i for i in order if len(texts[i].split()) > 1]
    assert [h.uid for h in look(finished, kept=True, top=9).hits] == [uid(i) for i in stays][:9]
    odd = look(finished, where="odd = 1 -- those alone", top=9)
    assert [h.uid for h in odd.hits] == [uid(i) for i in order if i % 2][:9]
    both = look(finished, where="odd = 0 OR odd = 1", kept=True, top=ROWS)
    assert [h.uid for h in both.hits] == [uid(i) for i in stays]
    assert both.vectors == len(stays)
    assert look(finished, where="false").hits == ()


def test_an_image_finds_its_own_caption(finished: str, planted: Any, tmp_path: Path) -> None:
    """Of four images, whose captions are stored as embeddings, nearly all find it among the first three."""
    hits = 0
    rows = [0, 1, 2, 4]
    for i in rows:
        (tmp_path / "x.png").write_bytes(image_bytes(planted[i]))
        query = Query(image=str(tmp_path / "x.png"), model="pairsieve-demo", device="cpu")
        hits += uid(i) in [hit.uid for hit in search(finished, query, embeddings="fixed", top=3).hits]
    assert hits >= 3


def test_a_run_of_an_object_store(recipe: Any, finished: str) -> None:
    """The same pairs."""
    out = "memory://search/run"
    try:
        run(recipe, out, engine="local", workers=1)
        assert look(out).hits == look(finished).hits
    finally:
        fsspec.filesystem("memory").rm("/search", recursive=True)


@pytest.mark.parametrize(
    ("query", "settings", "says"),
    [
        (Query(), {}, "nothing to look for"),
        (Query("  "), {}, "nothing to look for"),
        (Query("x", image="y"), {}, "a text or --image FILE, not both"),
        (Query("x"), {"where": " "}, "--where is empty"),
        (Query("x"), {}, "several columns of embeddings; name one with --embeddings: fixed, loose"),
        (Query("x"), {"embeddings": "fixd"}, "--embeddings: no column 'fixd' here; did you mean 'fixed'"),
        (Query("x"), {"embeddings": "caption_words"}, "'caption_words' is int32, not embeddings"),
        (Query("x"), {"embeddings": "fixed"}, "does not know the model of column 'fixed'; give --model"),
        (Query("x", pretrained="openai"), {"embeddings": "fixed"}, "--pretrained openai goes with --model"),
        (
            Query("x", model="ViT-B-32-quickgelu", pretrained="openai"),
            {"embeddings": "fixed"},
            "width 48, and ViT-B-32-quickgelu gives 512",
        ),
        (Query("x", model="ViT-B-33"), {"embeddings": "fixed"}, "^--model: there is no architecture .* did you mean"),
        (Query("x", model="ViT-B-32", pretrained="opena"), {"embeddings": "fixed"}, "^--pretrained: .* 'opena'"),
        (Query("x", model="pairsieve-demo", pretrained="y"), {"embeddings": "fixed"}, "^--model: .*'pretrained' goes"),
        (Query(image="none.jpg", model="pairsieve-demo"), {"embeddings": "fixed"}, "--image none.jpg: there is no"),
        (Query("x", model="pairsieve-demo"), {"embeddings": "fixed", "top": 0}, "--top 0: give 1 to 10,000"),
    ],
)
def test_mistakes_are_one_line(finished: str, query: Query, settings: dict[str, Any], says: str) -> None:
    """What cannot be looked for, where or by what."""
    with pytest.raises(UserError, match=says) as caught:
        search(finished, query, **settings)
    assert "\n" not in str(caught.value)


def test_bad_sql_is_one_line(finished: str) -> None:
    """What DuckDB says of it."""
    for where in ("nonsense", "SELECT", "text", "1; DROP VIEW scores", "odd) OR (true"):
        with pytest.raises(QueryError, match="--where: ") as caught:
            look(finished, where=where) if where != "odd) OR (true" else look(finished, where=f"{where} AND")
        assert "\n" not in str(caught.value)


def test_an_image_that_is_none_is_one_line(finished: str, tmp_path: Path) -> None:
    """Broken, or a folder."""
    (tmp_path / "x.jpg").write_bytes(b"no image")
    for name, says in (("x.jpg", "cannot be read as an image"), ("", "no such file")):
        with pytest.raises(UserError, match=says):
            search(finished, Query(image=str(tmp_path / name), model="pairsieve-demo"), embeddings="fixed")


def test_runs_that_are_none_are_one_line(finished: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not there, of another pool, without the packages."""
    with pytest.raises(UserError, match="no finished run here"):
        look(str(tmp_path))
    with monkeypatch.context() as patch, pytest.raises(MissingExtraError, match=r"pip install 'pairsieve\[clip\]'"):
        patch.setattr("pairsieve.pipelines.search.find_spec", lambda _: None)
        look(finished)
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "pairs" / "_pool.json").write_text("{}")
    with pytest.raises(UserError, match="the pool is not as the run read it"):
        look(str(tmp_path / "run"))


def test_a_damaged_file_of_scores_is_one_line(finished: str, tmp_path: Path) -> None:
    """With its name and the next step."""
    shutil.copytree(finished, tmp_path / "run")
    file = sorted((tmp_path / "run" / "scores" / "caption_words").glob("*.parquet"))[0]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(PairsieveError, match=r"scores/caption_words/00000\.parquet: .*run the recipe again"):
        look(str(tmp_path / "run"))


def test_a_run_without_embeddings_says_how_to_get_them(tmp_path: Path) -> None:
    """The next step."""
    (tmp_path / "x.csv").write_text("url,text\nhttp://e.org/1,a b c\n")
    run({"pool": {"urls": str(tmp_path / "x.csv")}, "filters": ["caption_words"]}, tmp_path / "run", workers=1)
    with pytest.raises(UserError, match="no column of embeddings; give clip_score 'embeddings: true'"):
        search(str(tmp_path / "run"), Query("x"))


def test_datacomps_features_are_known(tmp_path: Path) -> None:
    """Their models are OpenAI's; a width that is not theirs tells which model was taken."""
    pool = support_datacomp.pool(tmp_path / "pool")
    run(support_datacomp.recipe(pool, "caption_words"), tmp_path / "run", workers=1)
    for column, says in (("l14_img", "ViT-L-14-quickgelu gives 768"), ("b32_txt", "ViT-B-32-quickgelu gives 512")):
        with pytest.raises(UserError, match=f"{column}.*{says}"):
            search(str(tmp_path / "run"), Query("x"), embeddings=column)
    with pytest.raises(UserError, match="does not know the model of column 'dedup'"):
        search(str(tmp_path / "run"), Query("x"), embeddings="dedup")


def test_a_pool_that_is_read_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DataComp's features lie in files of their own, and its captions are not copied: both are found, in two files."""
    pool = support_datacomp.pool(tmp_path / "pool", (60, 40))
    run(support_datacomp.recipe(pool, {"where": "original_width <> 310"}), tmp_path / "run", workers=1)
    query = np.eye(12, dtype=np.float32)[2]

    def unchecked(known: Model, _: str) -> tuple[ClipModel, int]:
        return ClipModel(model=known.model, pretrained=known.pretrained), 12

    monkeypatch.setattr("pairsieve.pipelines.search._checked", unchecked)
    monkeypatch.setattr("pairsieve.pipelines.search._embedded", lambda *_: query)
    found = search(str(tmp_path / "run"), Query("x"), embeddings="l14_img", top=30)
    vectors = np.concatenate([support_datacomp.features(n, i)["l14_img"] for i, n in enumerate((60, 40))])
    wide = vectors.astype(np.float64)
    order = np.argsort(-(wide @ query) / np.linalg.norm(wide, axis=1))[:30]
    assert [hit.uid for hit in found.hits] == [support_datacomp.uid_of(int(i)) for i in order]
    for hit, i in zip(found.hits, order, strict=True):
        assert (hit.text, hit.url) == (f"a photo of dog number {i}", f"http://example.org/{i}.jpg")
        assert hit.dropped_by == ("where" if (300 + i % 50) == 310 else None)
    assert found.model == "ViT-L-14-quickgelu openai"


def invoke(finished: str, *options: str) -> Any:
    """The command line."""
    given = ["--model", "pairsieve-demo", "--device", "cpu", "--embeddings", "fixed", "-q", *options]
    return CliRunner().invoke(app, ["search", finished, *given])


def test_command(finished: str, texts: Any) -> None:
    """A table, and the same as JSON."""
    page = invoke(finished, TEXT, "--top", "5")
    assert page.exit_code == 0
    told = json.loads(invoke(finished, TEXT, "--top", "5", "--json").stdout)
    hits = look(finished, top=5).hits
    assert [Hit(**{k: v for k, v in hit.items() if k != "kept"}) for hit in told["hits"]] == list(hits)
    assert all(hit["kept"] == (hit["dropped_by"] is None) for hit in told["hits"])
    assert all(hit.uid in page.stdout and f"{hit.score:.4f}" in page.stdout for hit in hits)
    assert f"5 of {ROWS - 1} embeddings in fixed, by pairsieve-demo" in page.stdout


def test_a_caption_writes_nothing_to_the_screen(finished: str) -> None:
    """Control characters are spaces; what looks like markup is text."""
    page = invoke(finished, TEXT, "--where", "text LIKE '%evil%'")
    assert "[bold]x[/bold]" in page.stdout
    assert all(c.isprintable() for c in page.stdout.replace("\n", ""))
    assert shown("x" * 1000) == f"{'x' * 299}…"
    assert shown(None) == ""


@pytest.mark.parametrize(
    "options", [["x", "--top", "0"], ["x", "--device", "gpu"], [], ["x", "--workers", "0"], ["x", "--where", "y"]]
)
def test_bad_options_are_refused(finished: str, options: list[str]) -> None:
    """No traceback of ours, and an exit code."""
    found = invoke(finished, *options)
    assert found.exit_code != 0
    assert found.exception is None or isinstance(found.exception, SystemExit | UserError)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, recipe: Any) -> str:
    """A run that embeds the images and captions of the pool by a model in a folder, under two names of the step."""
    folder = tmp_path_factory.mktemp("scored")
    shutil.copytree(Path(pairsieve.__file__).parent / "demo-clip", folder / "model")
    own = {"model": str(folder / "model"), "embeddings": True, "precision": "fp32", "device": "cpu"}
    steps = [
        {"caption_words": {"least": 2}},
        {"clip_score": {**own, "as": "first", "also": {"demo": {"model": "pairsieve-demo"}}}},
        {"clip_score": {**own, "as": "other", "model": "pairsieve-demo"}},
    ]
    run({**recipe, "filters": steps}, folder / "run", engine="local", workers=1)
    return str(folder / "run")


def test_the_model_is_the_runs_own(scored: str, demo: Clip, planted: Any, texts: Any) -> None:
    """No model is named: pairs that were scored are found by their images, or by their captions."""
    found = search(scored, Query(TEXT, device="cpu"), embeddings="clip_image", top=ROWS)
    assert found.model.endswith("/model")
    assert len(found.hits) == found.vectors == sum(len(text.split()) > 1 for text in texts)
    own = search(scored, Query(str(planted[1].text), device="cpu"), embeddings="clip_text", top=1).hits[0]
    assert (own.text, own.dropped_by) == (planted[1].text, None)
    assert own.score > 0.999
    query = demo.texts([TEXT])[0]
    best = found.hits[0]
    image = image_bytes(planted[[uid(i) for i in range(ROWS)].index(best.uid)])
    assert best.score == pytest.approx(float(_embedding(demo, image) @ query), abs=1e-3)


def _embedding(demo: Clip, image: bytes) -> NDArray[np.float32]:
    """Of an image, by open_clip alone."""
    import torch

    wanted = Preprocess.of(demo.model)
    found = pixels(image, [wanted], fast=False)
    assert not isinstance(found, str)
    with torch.inference_mode():
        batch = normalised(torch.from_numpy(found[0][None]), wanted, torch.float32)
        return np.asarray(demo.model.encode_image(batch, normalize=True).numpy()[0], np.float32)


def test_every_column_knows_its_model(scored: str) -> None:
    """Of a step's own model, of a further one, of a step by another name; and they are what they say."""
    models = {"clip_image": "/model", "clip_text_demo": "pairsieve-demo", "other_clip_image": "pairsieve-demo"}
    hits = []
    for column, model in models.items():
        found = search(scored, Query(TEXT, device="cpu"), embeddings=column, top=5)
        assert found.model.endswith(model)
        hits.append([hit.uid for hit in found.hits])
    assert hits[0] == hits[2] != hits[1]
    assert search(scored, Query(TEXT, device="cpu")).column == "clip_image"


def test_a_model_that_changed_is_refused(scored: str) -> None:
    """Its files must be those that measured; another may be named."""
    config = Path(scored).parent / "model" / "open_clip_config.json"
    before = config.read_text()
    config.write_text(before + " ")
    try:
        with pytest.raises(UserError, match=r"open_clip_config\.json is not as it was when the run measured"):
            search(scored, Query(TEXT, device="cpu"))
        assert search(scored, Query(TEXT, model="pairsieve-demo", device="cpu")).hits
        config.unlink()
        with pytest.raises(UserError, match=r"--model: .*holds no open_clip_config\.json"):
            search(scored, Query(TEXT, device="cpu"))
    finally:
        config.write_text(before)


def test_steps_read_what_clip_score_stored(recipe: Any, tmp_path: Path) -> None:
    """A recipe whose zero_shot, aesthetic and nsfw follow clip_score; other thresholds measure nothing again."""
    width = 48
    np.savez(tmp_path / "head.npz", weight=np.ones((1, width), np.float32), bias=np.zeros(1, np.float32))
    heads = {"weights": str(tmp_path / "head.npz"), "device": "cpu"}
    own = {"model": "pairsieve-demo", "device": "cpu", "precision": "fp32"}
    labels = ["circle", "heart", "triangle"]
    steps: list[Any] = [
        {"clip_score": {**own, "embeddings": True}},
        {"zero_shot": {**own, "labels": labels, "templates": ["a picture of a {}"], "drop": ["heart"]}},
        {"aesthetic": {**heads, "top": 0.5}},
        {"nsfw": {**heads, "max": 0.9}},
    ]
    result = run({**recipe, "filters": steps}, tmp_path / "run", engine="local", workers=1)
    rows = result.query("SELECT * FROM scores").to_pylist()
    assert {row["zero_shot_label"] for row in rows} == set(labels)
    for row in rows:
        goes = row["dropped_by"] == "zero_shot"
        assert goes == (row["zero_shot_label"] == "heart") == (row["reason"] == "is_heart")
        assert (row["aesthetic"] is None) == goes
        if row["nsfw"] is not None:
            assert row["nsfw"] == pytest.approx(1 / (1 + np.exp(-row["aesthetic"])), abs=1e-6)
    steps[1]["zero_shot"] |= {"drop": ["circle"]}
    again = run({**recipe, "filters": steps[:2]}, tmp_path / "run", engine="local", workers=1)
    assert again.measured == {"clip_score": 0, "zero_shot": 0}
    assert again.tally.dropped == {("zero_shot", "is_circle"): sum(r["zero_shot_label"] == "circle" for r in rows)}


def test_scores_that_are_gone_are_missed(scored: str, tmp_path: Path) -> None:
    """Rather than an answer from what is left."""
    shutil.copytree(scored, tmp_path / "run")
    next((tmp_path / "run" / "scores" / "first").glob("*.parquet")).unlink()
    with pytest.raises(PairsieveError, match=r"scores/first: the file of shard \d+ is gone.*run the recipe again"):
        search(str(tmp_path / "run"), Query(TEXT), embeddings="clip_image")
