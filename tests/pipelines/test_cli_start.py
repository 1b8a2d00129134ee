"""The first minutes: the start page, hints after a run, errors that name what lies near, and how commands end."""

import fcntl
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from pairsieve.pipelines.near import no_run, runs_below
from pairsieve.schemas.errors import EXIT_CODES, ExitCode, PairsieveError, RunBusyError, UserError
from tests.support import numbered_rows, write_csv

RECIPE = """\
pool:
  urls: {path: list.csv, shard_rows: 100}
filters:
  - caption_words: {least: 2}
output: {subset: subset.npy}
"""
DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


def pairsieve(*arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command as a script does, with pipes."""
    return subprocess.run(
        [sys.executable, "-m", "pairsieve", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def at_terminal(arguments: Sequence[str], cwd: Path) -> str:
    """What a person sees who types the command: both streams are one terminal."""
    main, side = pty.openpty()
    command = [sys.executable, "-m", "pairsieve", *arguments]
    with subprocess.Popen(command, cwd=cwd, stdin=side, stdout=side, stderr=side) as process:
        os.close(side)
        seen = b""
        while part := _read(main):
            seen += part
        process.wait(120)
    os.close(main)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode()).replace("\r", "")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux' way of saying that nobody writes there any more
        return b""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe and a finished run."""
    here = tmp_path_factory.mktemp("place")
    write_csv(here / "list.csv", numbered_rows(50))
    (here / "recipe.yaml").write_text(RECIPE)
    done = pairsieve("run", "recipe.yaml", "--out", "runs/first", "--workers", "1", cwd=here)
    assert done.returncode == 0, done.stderr
    assert "next:" not in done.stderr
    return here


def test_alone_it_shows_where_to_begin(place: Path) -> None:
    """Without arguments: what to try first, and the run that lies here."""
    done = pairsieve(cwd=place)
    assert done.returncode == 0
    for words in ("demo", "init", "plan recipe.yaml", "query runs/first", "--help", "doctor"):
        assert words in done.stdout
    assert len(done.stdout.splitlines()) <= 20


def test_help_lists_the_exit_codes(place: Path) -> None:
    """``--help`` ends with all of them, a line each."""
    lines = pairsieve("--help", cwd=place).stdout.splitlines()
    for code, what in EXIT_CODES.items():
        assert f"    {code:<4} {what}" in lines


def test_docs_list_the_exit_codes() -> None:
    """The docs say the same as the code."""
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", DOCS.read_text(), re.MULTILINE))
    assert rows == {str(int(code)): what for code, what in EXIT_CODES.items()}


def test_version(place: Path) -> None:
    """``--version`` prints one line."""
    assert re.fullmatch(r"pairsieve \d+\.\d+\S*\n", pairsieve("--version", cwd=place).stdout)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["runn"], "error: No such command 'runn'. Did you mean 'run'; pairsieve --help shows how"),
        (["run"], "error: Missing argument 'RECIPE' (recipe file, or the name of a shipped recipe); pairsieve run"),
        (
            ["run", "recipe.yaml"],
            "error: Missing option '--out' (run directory, local or any fsspec URL); pairsieve run",
        ),
        (["run", "recipe.yaml", "--out", "x", "--wrkers", "2"], "error: No such option: --wrkers"),
        (["run", "recipe.yaml", "--out", "x", "--workers", "0"], "error: Invalid value for '--workers'"),
        (["run", "recipe.yaml", "extra", "--out", "x"], "error: Got unexpected extra argument(s) (extra)"),
        (["export", "tar"], "error: No such command 'tar'"),
    ],
)
def test_mistyped_commands_are_one_line(place: Path, arguments: list[str], says: str) -> None:
    """What is wrong, and whose help to read: one line, exit code 2."""
    done = pairsieve(*arguments, cwd=place)
    assert (done.returncode, done.stdout) == (ExitCode.MISTAKE, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(says)
    assert line.endswith("--help shows how")


def test_a_group_alone_shows_its_commands(place: Path) -> None:
    """``pairsieve export`` lists what can be exported."""
    done = pairsieve("export", cwd=place)
    assert done.returncode == ExitCode.MISTAKE
    assert "webdataset" in done.stderr


def test_hints_are_commands_that_work(place: Path) -> None:
    """At a terminal a run ends with what to do next, with a pair that was really dropped."""
    seen = at_terminal(["run", "recipe.yaml", "--out", "runs/first", "--workers", "1"], place)
    (uid,) = re.findall(r"why runs/first ([0-9a-f]{32})", seen)
    done = pairsieve("why", "runs/first", uid, cwd=place)
    assert "dropped by caption_words" in done.stdout
    (sql,) = re.findall(r'query runs/first "(SELECT dropped_by.*)"', seen.replace("\n", " "))
    assert "caption_words" in pairsieve("query", "runs/first", sql, cwd=place).stdout


def test_no_hints_when_quiet(place: Path) -> None:
    """``--quiet`` and ``--json`` leave them out at a terminal, too."""
    for option in ("--quiet", "--json"):
        seen = at_terminal(["run", "recipe.yaml", "--out", "runs/first", "--workers", "1", option], place)
        assert "next:" not in seen


def test_an_empty_outcome_is_explained(place: Path) -> None:
    """A run that keeps nothing says which step took the last, and as what."""
    done = pairsieve("run", "recipe.yaml", "--out", "runs/empty", "--set", "filters.caption_words.least=60", cwd=place)
    assert done.returncode == 0
    assert "nothing was kept: caption_words dropped the last 50 pairs" in done.stderr


def test_the_runs_near_a_wrong_path_are_told(place: Path) -> None:
    """A mistyped run is answered with those that lie near, the likeliest first."""
    done = pairsieve("query", "runs/frist", "SELECT 1", cwd=place)
    assert done.returncode == ExitCode.MISTAKE
    assert done.stderr.startswith("error: runs/frist: no finished run here (catalog.duckdb is missing)")
    assert "runs near it: runs/first" in done.stderr


def test_no_run_near_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, the command that makes one is told."""
    monkeypatch.chdir(tmp_path)
    assert str(no_run("x")).endswith("; pairsieve run RECIPE --out x")


def test_a_stopped_run_is_no_missing_one(tmp_path: Path) -> None:
    """A run that was stopped says so."""
    (tmp_path / ".lock").touch()
    assert "the run is not finished" in str(no_run(str(tmp_path)))


def test_runs_below_are_bounded_and_sorted(tmp_path: Path) -> None:
    """Two levels deep, hidden folders left out, a run's own folders not entered."""
    for name in ("b", "a/c", "a/d/e", ".hidden", "b/scores/x"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.yaml").touch()
    assert runs_below(str(tmp_path)) == [str(tmp_path / "a/c"), str(tmp_path / "b")]


@pytest.mark.parametrize(("kind", "code"), [(PairsieveError, 1), (UserError, 2), (RunBusyError, 1)])
def test_errors_have_their_codes(kind: type[PairsieveError], code: int) -> None:
    """The tree of errors ends commands with the documented codes."""
    assert kind("x").exit_code == code
    assert ExitCode(code) in EXIT_CODES


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_says_so(place: Path, tmp_path: Path, sent: signal.Signals, code: int) -> None:
    """Ctrl-C and SIGTERM end a run with their codes and one line, and the same command continues."""
    out = tmp_path / "run"
    os.mkfifo(tmp_path / "list.csv")  # a list that never comes
    command = [sys.executable, "-m", "pairsieve", "run", str(place / "recipe.yaml"), "--out", str(out)]
    command += ["--set", f"pool.urls.path={tmp_path}/list.csv", "--workers", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        writer = _when_read(tmp_path / "list.csv")
        process.send_signal(sent)
        assert process.stderr is not None
        said = process.stderr.read()
    os.close(writer)
    assert process.returncode == code
    assert said == "stopped; the same command continues\n"


def _when_read(fifo: Path) -> int:
    """An end to write to, as soon as somebody reads: before that there is none to be had."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(OSError):
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.05)
    raise AssertionError(f"{fifo} was never read")


def test_a_failure_is_exit_code_1(place: Path, tmp_path: Path) -> None:
    """What stops a run that may go on later, such as a full disk, is code 1 and one line."""
    run = tmp_path / "run"
    run.mkdir()
    with (run / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = pairsieve("run", "recipe.yaml", "--out", str(run), cwd=place)
    assert done.returncode == ExitCode.FAILED
    (line,) = done.stderr.splitlines()
    assert "another pairsieve works in this directory" in line


MISTAKES = {
    "a recipe of a like name": (["plan", "recipe.yml"], "recipe.yml: no such recipe; did you mean 'recipe.yaml'?"),
    "a uid cut short": (["why", "runs/first", "abc"], 'pairsieve query runs/first "SELECT uid, text, dropped_by'),
    "a uid of another pool": (["why", "runs/first", "f" * 32], "no candidate has uid"),
    "a table that is not there": (["query", "runs/first", "SELECT * FROM x"], '"SHOW ALL TABLES" lists what there is'),
    "a file as a folder": (["demo", "--out", "list.csv"], "list.csv/demo: Not a directory; remove the file"),
    "a cluster that is not there": (
        ["run", "recipe.yaml", "--out", "x", "--ray-address", "127.0.0.1:9"],
        "Ray at 127.0.0.1:9 cannot be reached: [Errno 111] Connection refused; check --ray-address",
    ),
    "an empty run": (["query", "", "SELECT 1"], "error: '': no finished run here"),
    "more hosts than there can be": (["hosts", "runs/first", "--top", "9" * 30], "Invalid value for '--top'"),
    "more rows than a file has": (
        ["plan", "recipe.yaml", "--set", f"pool.urls.shard_rows={'9' * 15}"],
        "pool.urls.shard_rows: input should be less than 2147483648",
    ),
    "a recipe of the track that is none": (["track", "nano", "--recipe", "nan_basic"], "did you mean 'nano_basic'?"),
    "two formats": (["query", "runs/first", "SELECT 1", "--json", "--format", "csv"], "leave it or --format csv out"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_names_the_next_step(place: Path, name: str) -> None:
    """One line with place, cause and next step, soon, and nothing on standard output."""
    arguments, says = MISTAKES[name]
    done = pairsieve(*arguments, cwd=place)
    assert done.returncode in (ExitCode.FAILED, ExitCode.MISTAKE)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert says in line


def test_names_in_errors_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    """A list of bytes whose column names are escape sequences is refused in plain text."""
    (tmp_path / "list.csv").write_bytes(b"a\x1b]0;owned\x07,b\nc,d\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    done = pairsieve("plan", "recipe.yaml", cwd=tmp_path)
    assert done.returncode == ExitCode.MISTAKE
    assert "no column 'url'" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_run_at_work_is_no_stopped_one(tmp_path: Path) -> None:
    """Whoever asks a run that is at work is told to wait."""
    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "a run is at work here" in str(no_run(str(tmp_path)))


def test_captions_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    """Escape sequences in a caption are shown as blanks, in tables and in a pair's story."""
    (tmp_path / "list.csv").write_text("url,text\nhttp://e.org/1.jpg,a \x1b]0;owned\x07 red \x1b[2J bicycle\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    pairsieve("run", "recipe.yaml", "--out", "run", "--workers", "1", "-q", cwd=tmp_path)
    done = pairsieve("query", "run", "SELECT uid, text FROM scores", "--format", "table", cwd=tmp_path)
    (uid,) = re.findall(r"[0-9a-f]{32}", done.stdout)
    for shown in (done.stdout, pairsieve("why", "run", uid, cwd=tmp_path).stdout):
        assert "bicycle" in shown
        assert "\x1b" not in shown
        assert "\x07" not in shown
