"""Every command that README.md and docs/ show is run here, in a folder with a small finished run; where it needs what
no test has (models of the hub, clusters, a terminal) it is parsed, with the reason beside it.
"""

import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner

from pairsieve.pipelines.catalog import query
from pairsieve.pipelines.cli import app
from scripts import cost_model, docs_filters
from tests.support_docs import PROGRAM, ROOT, Command, blocks, commands, ours, parse
from tests.support_docs_workspace import PAIRS, workspace

ONLY_PARSED = {
    r"^run blip_capfilt ": "models of the hub",
    r"--clip-pretrained openai": "models of the hub",
    r"--embeddings l14_img": "OpenAI's ViT-L/14, to embed the query",
    r"--ray-address": "a cluster; tests/pipelines/test_cluster*.py have one",
    r"s3://": "a bucket; tests/pipelines/test_s3.py have one",
    r"^track (nano|small) ": "trains for minutes; tests/pipelines/test_track_*.py train smaller models",
    r"^explore ": "serves until it is stopped; tests/pipelines/test_explore*.py drive it",
    r"--install-completion|--show-completion": "writes to the user's shell",
    r"^init\b(?!.*--yes)": "asks questions; tests/pipelines/test_init*.py answer them",
}
SMALLER = {
    r"^demo\b": ("$", " --pairs 60 --engine local"),
    r"^cluster ": (r"--clusters \d+", "--clusters 4"),
    r"^balance ": (r"--target-rows \d+M", "--target-rows 5"),
    r"^metadata metadata.parquet": ("$", " --force"),
    r"^metadata (fr|ja)": ("$", " --unigram-share 1"),
    r"^track score ": (r"/models/[^\s']+", str(Path(__file__).parent / "pipelines" / "track_published.csv")),
    r"^captions score results.json captions_val2014.json$": ("$", " --metrics bleu,rouge_l,cider"),
    r"^captions score --run": ("$", " --metrics bleu,cider"),
    r"timeout=60": ("timeout=60", "timeout=1"),
    r"--workers 16": ("--workers 16", "--workers 1"),
    r"^(run|retry|plan|demo|metadata|reshard|export \w+)\b(?!.*--workers)(?!.*--join)": ("$", " --workers 1"),
}
"""What a test makes of a command so that it fits: a pattern of the command, what is replaced, and by what."""
OTHERS = {
    "make": "targets are looked for in the Makefile",
    "pip": "extras are looked for in pyproject.toml",
    "cd": "goes with the next command",
    "duckdb": "the SQL is run by DuckDB's library",
    "rm": "a folder of a run is removed",
    "python": "modules of this repository are run, others need what is not here",
    "apt": "installs packages",
    "export": "sets the environment",
    "hf": "publishes",
    "git": "clones",
    "ray": "needs a cluster; tests/pipelines/test_cluster*.py have one",
    "ssh": "needs another machine",
    "vllm": "needs a GPU",
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The workspace; commands run in it."""
    root = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        with workspace(root):
            yield root


def reason_to_parse(text: str) -> str | None:
    """Why a command is not run."""
    return next((why for pattern, why in ONLY_PARSED.items() if re.search(pattern, text)), None)


def adapted(words: Sequence[str], root: Path) -> list[str]:
    """A command with names for its placeholders, and of a size that fits."""
    text = shlex.join(words)
    for pattern, (old, new) in SMALLER.items():
        if re.search(pattern, text):
            text = re.sub(old, new, text, count=1)
    uid = query(str(root / "runs/second"), "SELECT uid FROM verdicts WHERE dropped_by = 'clip_score' LIMIT 1")["uid"][0]
    names: Mapping[str, str] = {"RUN": "runs/first", "UID": str(uid), "OUT": "out", "RECIPE": "recipe.yaml"}
    found = [names.get(word, word) for word in shlex.split(text)]
    return [re.sub(r"(?<![\w.])/(data|models)(?=/|$)", f"{root}/\\1", word) for word in found]


def make_room(words: Sequence[str], root: Path) -> None:
    """Remove what another page's command wrote into the same folder."""
    for word in words if words[0] in ("reshard", "export") else ():
        if Path(word).parent == root / "data" and Path(word).name not in KEPT:
            shutil.rmtree(word, ignore_errors=True)


KEPT = ("shards", "datacomp_small", "datacomp_medium")
"""Folders that commands read."""
RUN_HERE = [c for c in ours() if c.block.page.stem != "write-a-filter" and not reason_to_parse(shlex.join(c.words[1:]))]
"""Those of the page on filters have a folder of their own: tests/test_docs_pages.py."""


@pytest.mark.parametrize("command", ours(), ids=str)
def test_command_exists(command: Command) -> None:
    """The program has the command, all its options, and takes so many arguments."""
    parse([word for word in command.words[1:] if word != "…"])


@pytest.mark.parametrize("command", RUN_HERE, ids=str)
def test_command_works(command: Command, here: Path) -> None:
    """It ends with exit code 0 where its files are there."""
    words = adapted(command.words[1:], here)
    make_room(words, here)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{command.block}: {words}: {done.exception!r}\n{done.output[-1500:]}"


def test_every_reason_not_to_run_is_needed() -> None:
    """No pattern of the lists above is left over from a command that is gone, but for those of pages to come."""
    texts = [shlex.join(command.words[1:]) for command in ours()]
    unused = [p for p in (*ONLY_PARSED, *SMALLER) if not any(re.search(p, text) for text in texts)]
    assert set(unused) <= {r"^explore ", r"--install-completion|--show-completion", r"^init\b(?!.*--yes)"}


def test_every_program_is_known() -> None:
    """A command of another program stands in the list, with what becomes of it."""
    programs = {command.words[0] for command in commands()}
    assert programs - set(PROGRAM) <= set(OTHERS)


def statements() -> list[tuple[str, str]]:
    """Every statement of a block of SQL: one a line, or one over several lines; with its place."""
    found = []
    for block in blocks("sql"):
        text = re.sub(r"--.*$", "", block.text, flags=re.M)
        lines = text.splitlines() if text.count("SELECT") > 1 else [" ".join(text.split())]
        found += [(str(block), line.strip()) for line in lines if line.strip()]
    return found


@pytest.mark.parametrize(("place", "sql"), statements(), ids=lambda value: str(value)[:60])
def test_sql_answers(place: str, sql: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement of a page is answered by the catalog of a run with such steps."""
    refusals = []
    for run in ("second", "capfilt", "metaclip", "basic"):
        monkeypatch.chdir(here / "runs" / run)
        with duckdb.connect("catalog.duckdb", read_only=True) as con:
            try:
                con.execute(sql).fetchall()
                return
            except duckdb.Error as error:
                refusals.append(f"{run}: {error}")
    pytest.fail(f"{place}: {sql}: {refusals}")


@pytest.mark.parametrize("run", ["second", "metaclip"])
def test_reasons_of_runs_stand_in_the_reference(run: str, here: Path) -> None:
    """Whatever reason a pair of the workspace was dropped for is named on the page of its filter."""
    sql = "SELECT DISTINCT dropped_by, reason FROM verdicts WHERE dropped_by IS NOT NULL"
    found = query(str(here / "runs" / run), sql).to_pylist()
    assert found
    for row in found:
        reason = "same_&lt;columns&gt;" if row["reason"].startswith("same_s") else row["reason"]
        page = docs_filters.page(row["dropped_by"]).replace("<", "&lt;").replace(">", "&gt;")
        assert f"`{reason}`" in page, row


def of(program: str) -> list[Command]:
    """Every command of a program."""
    return [command for command in commands() if command.words[0] == program]


def test_targets_of_make_exist() -> None:
    """Each ``make`` target that a page names is one of the Makefile."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {word for command in of("make") for word in command.words[1:]} <= targets


def test_extras_exist() -> None:
    """Each extra that a page installs is one of pyproject.toml."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = [
        name
        for command in of("pip")
        for found in re.findall(r"\[([\w,]+)\]", command.text)
        for name in found.split(",")
    ]
    assert named
    assert [name for name in named if name not in extras and "open_clip" not in name and name != "training"] == []


def test_the_catalog_answers_without_pairsieve(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/runs.md asks with DuckDB's own program adds up to the pool."""
    (command,) = of("duckdb")
    monkeypatch.chdir(here / "runs/second")
    with duckdb.connect(command.words[1], read_only=True) as con:
        rows = con.execute(command.words[2]).fetchall()
    assert sum(row[-1] for row in rows) == PAIRS


def test_modules_of_ours_run(capsys: pytest.CaptureFixture[str]) -> None:
    """``python -m scripts.cost_model`` as the page on cost has it."""
    (command,) = [c for c in of("python") if "scripts.cost_model" in c.words]
    cost_model.main(command.words[3:])
    assert "400 M" in capsys.readouterr().out


def test_images_can_be_removed(here: Path) -> None:
    """docs/security.md: without the images of a run its verdicts, other scores and dataset still answer."""
    (command,) = of("rm")
    shutil.rmtree(here / command.words[2])
    run = str(here / "runs/old")
    assert query(run, "SELECT count(*) AS n FROM verdicts")["n"][0].as_py() == PAIRS
    assert query(run, "SELECT count(clip_score) AS n FROM scores_clip_score")["n"][0].as_py() > PAIRS / 3
    assert query(run, "SELECT count(image) AS n FROM dataset")["n"][0].as_py() > PAIRS / 3
