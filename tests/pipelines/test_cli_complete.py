"""Completion: what a real bash offers at Tab, quickly and without anything heavy."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.filters.load import names
from pairsieve.pipelines import cli_complete
from pairsieve.pipelines.recipe_file import shipped

BASH = shutil.which("bash")
SCRIPT = """
source "$1"
COMP_LINE="$2"
read -r -a COMP_WORDS <<< "$2"
[[ "$2" == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_pairsieve_completion pairsieve
printf '%s\\n' "${COMPREPLY[@]}"
"""
needs_bash = pytest.mark.skipif(BASH is None, reason="needs bash")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs, recipes and the command on the path, and the script that a user would install."""
    here = tmp_path_factory.mktemp("place")
    (here / "bin").mkdir()
    command = here / "bin" / "pairsieve"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pairsieve "$@"\n')
    command.chmod(0o755)
    for name in ("runs/first", "runs/second", "other run", "deep/er/third"):
        (here / name).mkdir(parents=True)
        (here / name / "run.yaml").touch()
    (here / "runs" / "empty").mkdir()
    for name in ("mine.yaml", "recipes/yours.yml", "notes.txt"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).touch()
    shown = subprocess.run([command, "--show-completion", "bash"], capture_output=True, text=True, check=True)
    (here / "completion.sh").write_text(shown.stdout)
    return here


def offered(place: Path, line: str) -> list[str]:
    """What bash would offer behind a line."""
    environment = {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        [BASH or "bash", "--norc", "-c", SCRIPT, "bash", str(place / "completion.sh"), line],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


@needs_bash
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pairsieve qu", ["query"]),
        ("pairsieve query r", ["runs/first", "runs/second"]),
        ("pairsieve query runs/s", ["runs/second"]),
        ("pairsieve query ./runs/f", ["./runs/first"]),
        ("pairsieve query deep/", ["deep/er/third"]),
        ("pairsieve plan m", ["mine.yaml", "metaclip_2_5b", "metaclip_2_worldwide", "metaclip_400m"]),
        ("pairsieve plan recipes/", ["recipes/yours.yml"]),
        ("pairsieve filters clip", ["clip_score"]),
        ("pairsieve run mine.yaml --engine ", ["auto", "local", "ray"]),
        ("pairsieve query runs/first x --format j", ["jsonl"]),
        ("pairsieve retry runs/first --reasons timeout,dn", ["timeout,dns_failure"]),
        ("pairsieve hosts runs/first --by f", ["failed"]),
        ("pairsieve search runs/first x --device cu", ["cuda"]),
        ("pairsieve export webdataset runs/f", ["runs/first"]),
        ("pairsieve init --strict b", ["basic", "balance"]),
        ("pairsieve query s3://bucket/", []),
    ],
)
def test_bash_offers(place: Path, line: str, expected: list[str]) -> None:
    """Each kind of word is completed by what fits there."""
    assert offered(place, line) == expected


@needs_bash
def test_bash_loads_the_script_for_the_command(place: Path) -> None:
    """The script registers itself, with files where nothing else is offered."""
    done = subprocess.run(
        [BASH or "bash", "--norc", "-c", f'source "{place}/completion.sh"; complete -p pairsieve'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "complete -o default -F _pairsieve_completion pairsieve"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_of_other_shells_are_made(place: Path, shell: str) -> None:
    """They name the command and the variable it answers to; where the shell is there, it can read them."""
    done = subprocess.run(
        [place / "bin" / "pairsieve", "--show-completion", shell], capture_output=True, text=True, check=True
    )
    assert "_PAIRSIEVE_COMPLETE" in done.stdout
    if program := shutil.which(shell):
        (place / f"x.{shell}").write_text(done.stdout)
        subprocess.run([program, "-n", place / f"x.{shell}"], check=True)


def test_nothing_heavy_is_imported() -> None:
    """Neither Tab nor --help waits for arrays, models, tables or drawing."""
    code = """
import os, sys
from pairsieve.pipelines.cli import app
os.environ.update(COMP_WORDS="pairsieve filters clip", COMP_CWORD="2", _PAIRSIEVE_COMPLETE="complete_bash")
try:
    app(prog_name="pairsieve")
except SystemExit:
    pass
del os.environ["_PAIRSIEVE_COMPLETE"]
app(["--help"], prog_name="pairsieve", standalone_mode=False)
heavy = {"torch", "pyarrow", "numpy", "duckdb", "rich", "ray", "fsspec", "yaml", "aiohttp"}
print("heavy:", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("clip_score\n")
    assert done.stdout.rstrip().endswith("heavy: []")


def test_columns_of_a_run(tmp_path: Path) -> None:
    """``cluster --features`` offers the lists that steps of the run on the line have stored."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "scores" / "clip_score").mkdir(parents=True)
    lists = pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"clip_image": lists, "clip_score": [0.1]}), tmp_path / "scores/clip_score/00000.parquet")
    environment = {**os.environ, "_PAIRSIEVE_COMPLETE": "complete_bash", "COMP_CWORD": "4"}
    environment["COMP_WORDS"] = f"pairsieve cluster {tmp_path} --features "
    done = subprocess.run(
        [sys.executable, "-m", "pairsieve"], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["clip_image"]


def test_names_that_a_shell_would_cut_are_left_to_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bash does not quote what a function offers, so a name with a space is not offered."""
    monkeypatch.chdir(place)
    assert cli_complete.runs("other") == []


@given(st.text(max_size=30))
def test_any_word_may_be_typed(word: str) -> None:
    """Whatever stands there, offers begin with it and nothing is raised."""
    for offer in (cli_complete.runs, cli_complete.recipes, cli_complete.filters, cli_complete.reasons):
        assert all(found.startswith(word) for found in offer(word))


def test_filters_and_recipes_are_those_that_ship() -> None:
    """An empty word offers all of them."""
    assert cli_complete.filters("") == names()
    assert set(shipped()) <= set(cli_complete.recipes(""))
