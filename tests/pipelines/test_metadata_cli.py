"""The command ``pairsieve metadata``: what it prints, and that no mistake ends in a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pairsieve.pipelines.cli import app
from pairsieve.schemas.errors import PairsieveError, UserError
from tests.support_metadata import rows, write_views
from tests.support_wordnet import need_wordnet


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """JSON lines and page views, in a path with spaces, which is the working directory."""
    here = tmp_path / "my data"
    here.mkdir()
    (here / "wiki.jsonl").write_text(json.dumps({"text": "ice cream in New York. " * 120 + "rare thing"}))
    (here / "other.jsonl").write_text(json.dumps({"text": "glace " * 100}))
    write_views(here / "views.gz", ["en Ice_cream 500 0", "en Zebra 60 0", "fr Glace 70 0"])
    monkeypatch.chdir(here)
    return here


def run(*arguments: str) -> str:
    """Run the command in this process; gives what it prints, or raises what it raises."""
    done = CliRunner().invoke(app, ["metadata", *arguments], catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command_as_a_user_types_it(folder: Path) -> None:
    """Table of sources on standard output, progress and notes on standard error, both files beside each other."""
    options = ["--no-wordnet", "--wikipedia", "wiki.jsonl", "--titles", "views.gz", "--workers", "1"]
    command = [sys.executable, "-m", "pairsieve", "metadata", "m.parquet", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "unigrams" in done.stdout and "6 entries: m.parquet" in done.stdout
    assert "no PMI exceeds" in done.stderr
    assert sorted(path.name for path in folder.glob("m.*")) == ["m.parquet", "m.parquet.manifest.json"]
    failed = subprocess.run([*command, "--wikipedia", "none"], capture_output=True, text=True, timeout=60, check=False)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: none: no such file") and len(failed.stderr.splitlines()) == 1


def test_wordnet_alone_has_the_papers_number(folder: Path) -> None:
    """Without any option: 86,654 entries."""
    need_wordnet()
    assert "86,654 entries: w.parquet" in run("w.parquet", "--quiet")
    assert pq.read_table(folder / "w.parquet").num_rows == 86_654


def test_options_reach_the_rules(folder: Path) -> None:
    """Each option is found in the manifest; a score of one's own drops the threshold of PMI."""
    given = (
        "--no-wordnet --wikipedia wiki.jsonl --titles views.gz --unigram-least 2 --unigram-most 4 --unigram-share 0.9"
    )
    given += " --bigram-score metaclip2 --bigram-count 3 --bigram-most 7 --bigram-share 0.5 --title-least 80"
    run("m.parquet", *given.split(), "--title-hour-least", "55", "--title-most", "9", "--title-share", "1", "--quiet")
    rules = json.loads((folder / "m.parquet.manifest.json").read_text())["rules"]
    assert rules["unigrams"] == {"least": 2, "most": 4, "share": 0.9}
    assert rules["bigrams"] == {"least": None, "most": 7, "share": 0.5}
    assert rules["titles"] == {"least": 80, "most": 9, "share": 1.0}
    assert (rules["score"], rules["count_least"], rules["hour_least"]) == ("metaclip2", 3, 55)
    assert [entry for entry, _ in rows("m.parquet", "bigrams")] == ["New York", "cream in"]


def test_metaclip2s_preset(folder: Path) -> None:
    """``--v2`` sets shares and score; a single option overrides it."""
    run("m.parquet", "--v2", "--no-wordnet", "--wikipedia", "wiki.jsonl", "--unigram-share", "1", "--quiet")
    rules = json.loads((folder / "m.parquet.manifest.json").read_text())["rules"]
    assert rules["unigrams"] == {"least": 1, "most": 251_465, "share": 1.0}
    assert rules["bigrams"] == {"least": None, "most": 100_646, "share": 0.4}
    assert rules["titles"] == {"least": 1, "most": 61_235, "share": 0.76}
    assert (rules["long_most"], rules["punctuation"]) == (256, False)


def test_languages_are_built_and_joined(folder: Path) -> None:
    """A language other than English goes without WordNet; ``--join`` makes one file of several."""
    run("en.parquet", "--no-wordnet", "--titles", "views.gz", "--quiet")
    run("fr.parquet", "--language", "fr", "--wikipedia", "other.jsonl", "--titles", "views.gz", "--quiet")
    assert "en.parquet" in run("all.parquet", "--join", "en.parquet", "fr.parquet")
    found = [(row["entry"], row["language"]) for row in pq.read_table(folder / "all.parquet").to_pylist()]
    assert found == [("Ice cream", "en"), ("glace", "fr"), ("Glace", "fr")]


def test_a_file_of_others_is_not_overwritten(folder: Path) -> None:
    """A file without our manifest stays, unless forced; one of ours is written anew."""
    (folder / "m.parquet").write_text("precious")
    with pytest.raises(UserError, match="--force"):
        run("m.parquet", "--no-wordnet", "--titles", "views.gz")
    assert (folder / "m.parquet").read_text() == "precious"
    run("m.parquet", "--no-wordnet", "--titles", "views.gz", "--force", "--quiet")
    run("m.parquet", "--no-wordnet", "--titles", "views.gz", "--title-least", "501", "--title-least", "1", "--quiet")
    assert rows("m.parquet") == [("Ice cream", 500)] or rows("m.parquet") == [("Ice cream", 500), ("Zebra", 60)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["m.parquet", "--no-wordnet"], "nothing to build from"),
        (["m.json"], "written as .parquet"),
        (["nowhere/m.parquet"], "there is no folder"),
        (["m.parquet", "--wordnet", "wiki.jsonl"], "holds no index.noun"),
        (["m.parquet", "--wordnet", ".", "--no-wordnet"], "give one of them"),
        (["m.parquet", "--wordnet", ".", "--language", "fr"], "WordNet 3.0 is English"),
        (["m.parquet", "--language", " "], "--language is empty"),
        (["m.parquet", "--no-wordnet", "--wikipedia", "none.xml"], "no such file"),
        (["m.parquet", "--no-wordnet", "--wikipedia", "views.gz"], "neither XML"),
        (["m.parquet", "--no-wordnet", "--titles", "wiki.jsonl"], "name hourly page views"),
        (["m.parquet", "--no-wordnet", "--titles", "views.gz", "--project", "xx"], "no line of the project 'xx'"),
        (["m.parquet", "--no-wordnet", "--titles", "views.gz", "--title-least", "999"], "no entry is left of titles"),
        (["m.parquet", "--no-wordnet", "--wikipedia", "wiki.jsonl", "--segmenter", "no:thing"], "--segmenter no:thing"),
        (["m.parquet", "--no-wordnet", "--titles", "views.gz", "--segmenter", "a:b"], "cuts the texts of --wikipedia"),
        (["m.parquet", "--bigram-score", "t-test"], "there are pmi, metaclip2"),
        (["m.parquet", "--engine", "spark"], "there are auto, local, ray"),
        (["m.parquet", "--join"], "name the metadata files"),
        (["m.parquet", "a.parquet"], "go with --join"),
        (["m.parquet", "--join", "a.parquet", "--titles", "views.gz"], "takes finished files alone"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, arguments: list[str], says: str) -> None:
    """Place, cause and next step; nothing is written."""
    with pytest.raises(PairsieveError, match=says.replace(".", r"\.")) as error:
        run(*arguments, "--quiet")
    assert isinstance(error.value, UserError)
    assert "\n" not in str(error.value)
    assert not [*folder.glob("m.parquet"), *folder.glob("m.*json")]


def test_text_without_a_word_is_refused(folder: Path) -> None:
    """Lines without a text give no words: an error with what was read."""
    (folder / "empty.jsonl").write_text('{"title": "a"}\n{"text": "..."}\n')
    with pytest.raises(UserError, match=r"no word in .*'broken': 1"):
        run("m.parquet", "--no-wordnet", "--wikipedia", "empty.jsonl", "--quiet")
