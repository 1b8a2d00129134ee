"""doctor: what it sees is true, what hangs or raises is a line, and secrets stay where they are."""

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from threading import Event

import pytest
from typer.testing import CliRunner

from pairsieve.pipelines import doctor_disk, doctor_machine, doctor_network, doctor_packages
from pairsieve.pipelines.cli import app
from pairsieve.pipelines.doctor import Finding, document, examine, ok, probes
from pairsieve.pipelines.doctor_packages import GIVES


def by_topic(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """Findings by what they are about."""
    found: dict[str, list[Finding]] = {}
    for one in findings:
        found.setdefault(one.topic, []).append(one)
    return found


@pytest.fixture(scope="module")
def told() -> dict[str, list[dict[str, str]]]:
    """The whole command once, as a program reads it."""
    command = [sys.executable, "-m", "pairsieve", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, str]]] = {}
    for one in json.loads(done.stdout)["findings"]:
        found.setdefault(one["topic"], []).append(one)
    return found


@pytest.mark.parametrize("topic", probes(None))
def test_every_topic_is_told(told: dict[str, list[dict[str, str]]], topic: str) -> None:
    """Each has a line with a state; a problem names the next step."""
    for one in told[topic]:
        assert one["state"] in ("ok", "note", "problem")
        assert one["says"]
        assert one["state"] != "problem" or one["next_step"]


def test_extras_are_those_of_the_package() -> None:
    """Every extra that users install is known, with what it gives; those of developers are not."""
    from importlib.metadata import metadata

    extras = set(metadata("pairsieve").get_all("Provides-Extra") or [])
    assert set(GIVES) - extras <= {"explore"}  # metadata of an older installation may lack the newest
    assert extras - set(GIVES) <= {"dev", "docs", "notebooks", "report"}


def test_missing_extra_says_what_it_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is not there is a note with the pip command of its extra."""
    monkeypatch.setattr(doctor_packages, "requires", lambda _: ["nonesuch-xyz>=1; extra == 'clip'"])
    (one,) = [f for f in doctor_packages.extras() if f.state == "note"]
    assert one.says == f"clip ({GIVES['clip']}) lacks nonesuch-xyz"
    assert "pip install 'pairsieve[clip]'" in one.next_step


def test_old_package_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that every run needs, older than it must be, stops every run."""
    monkeypatch.setattr(doctor_packages, "requires", lambda _: ["pyarrow>=9999.1"])
    one = next(iter(doctor_packages.packages()))
    assert one.state == "problem"
    assert "pyarrow 9999.1 or later" in one.says


def test_a_probe_that_hangs_is_left_behind() -> None:
    """What does not answer in time is a note, and the others are told."""
    end = Event()

    def hang() -> list[Finding]:
        end.wait(60)
        return []

    found = by_topic(examine({"slow": hang, "quick": lambda: [ok("quick", "here")]}, deadline=0.2))
    end.set()
    assert found["slow"][0].says == "cannot be told: no answer in time"
    assert found["quick"][0].state == "ok"


def test_a_probe_that_raises_is_a_line() -> None:
    """Whatever a machine has in store, doctor goes on."""

    def fail() -> list[Finding]:
        raise OSError("the sky\nfell")

    (one,) = examine({"sky": fail})
    assert (one.state, one.says) == ("note", "cannot be told: OSError: the sky fell")


def test_unwritable_folder_is_a_problem(tmp_path: Path) -> None:
    """A folder that this user cannot write to is named; told as another user, since root may write anywhere."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    code = f"""
import os
from pairsieve.pipelines.doctor_disk import folder
os.setgid(65534); os.setuid(65534)
for one in folder({str(locked / "runs")!r}): print(one.state, one.says)
"""
    for parent in (tmp_path, *(p for p in tmp_path.parents if p.name.startswith(("pytest-", "popen-")))):
        parent.chmod(0o755)  # pytest's own; one more of them in each of several workers
    command = [sys.executable, "-c", code if _is_root() else code.replace("os.setgid(65534); os.setuid(65534)", "")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == f"problem {locked}: nothing can be written there", done.stderr


def _is_root() -> bool:
    import os

    return os.geteuid() == 0


def test_exit_code_is_1_where_something_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A problem is exit code 1, with everything on standard output still."""
    monkeypatch.setattr(doctor_packages, "requires", lambda _: ["pyarrow>=9999.1"])
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["is_able"] is False


def test_run_that_is_not_there_yet(tmp_path: Path) -> None:
    """A folder without a run is no error: the command that makes one is told."""
    (one,) = doctor_disk.run(str(tmp_path / "x"))
    assert one.state == "note"
    assert f"pairsieve run RECIPE --out {tmp_path / 'x'}" in one.next_step


def test_damaged_run_is_told(tmp_path: Path) -> None:
    """A run.yaml that cannot be read is named."""
    (tmp_path / "run.yaml").write_text(": : nothing")
    (tmp_path / "catalog.duckdb").touch()
    says = [one.says for one in doctor_disk.run(str(tmp_path))]
    assert any("run.yaml is damaged" in text for text in says)


def test_run_at_work_is_told(tmp_path: Path) -> None:
    """A lock that another process holds is seen."""
    import fcntl

    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (one,) = doctor_disk.run(str(tmp_path))
    assert "a run is at work there" in one.says


def test_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    """What was written to measure the disk is gone."""
    assert all(one.state != "problem" for one in doctor_disk.folder(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_secrets_are_named_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials and proxies are told by the name of their variable; their values appear nowhere."""
    secret = "AKIA-very-secret"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", secret)
    monkeypatch.setenv("https_proxy", f"http://user:{secret}@proxy:3128")
    findings = [*doctor_network.object_stores(), *doctor_network.proxies()]
    text = json.dumps(document(findings))
    assert "AWS_ACCESS_KEY_ID" in text
    assert "https_proxy" in text
    assert secret not in text


def test_offline_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is not found says offline, and stops nothing."""
    monkeypatch.setattr(doctor_network, "HOST", "nonesuch.invalid")
    (one,) = doctor_network.dns()
    assert one.state == "note"
    assert "offline" in one.says


def test_no_torch_is_imported_without_a_gpu() -> None:
    """Looking at a machine without a GPU does not cost the seconds of torch."""
    code = """
import sys
from pairsieve.pipelines import doctor_machine, machine
from pathlib import Path
machine.DEVICES = Path("/nowhere")
print([one.state for one in doctor_machine.gpu()], "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "['note'] False", done.stderr


def test_torch_that_dies_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that takes the process with it is told, by its last words."""
    monkeypatch.setattr(doctor_machine, "_TORCH", "raise SystemExit('no such driver')")
    one = doctor_machine._by_torch(1, ", driver 570.1")
    assert (one.state, one.says) == ("note", "1 GPU, driver 570.1; torch fails: no such driver")


def test_deadline_is_one_for_all() -> None:
    """Ten probes that hang take no longer than one."""
    end = Event()
    began = time.monotonic()
    found = list(examine({str(i): lambda: [ok("x", "y")] if end.wait(60) else [] for i in range(10)}, deadline=0.3))
    end.set()
    assert len(found) == 10
    assert time.monotonic() - began < 30  # ten deadlines one after the other of a minute each would be more
