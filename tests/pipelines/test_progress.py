"""Progress: bars on a terminal, plain lines elsewhere; both say rows, rate and what came of them."""

import io

import pytest
from rich.console import Console

from pairsieve.pipelines.progress import Bars, Lines, Silent


def test_bars_show_rows_rate_and_share() -> None:
    """A finished bar shows its name, the rows, a rate and the kept share."""
    out = io.StringIO()
    with Bars(Console(file=out, force_terminal=True, width=140)).stage("download", 3000) as stage:
        stage.advance(1000, "12.0% kept")
        stage.advance(2000, "43.5% kept")
    shown = out.getvalue()
    for word in ("download", "3000/3000", "/s", "43.5% kept"):
        assert word in shown


def test_lines_end_with_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a stage ends in one line on standard error."""
    with Lines().stage("verdicts", 200) as stage:
        stage.advance(150)
        stage.advance(50, "10.0% kept")
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith("verdicts: 200 of 200 pairs, ")
    assert line.endswith("/s, 10.0% kept")


def test_lines_speak_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """A long stage says how far it is and how long it will take."""
    with Lines(every=0).stage("download", 400) as stage:
        stage.advance(100)
    first = capsys.readouterr().err.splitlines()[0]
    assert "download: 100 of 400 pairs" in first
    assert "s left" in first


def test_failed_stage_is_not_called_done(capsys: pytest.CaptureFixture[str]) -> None:
    """An error inside a stage passes through, and no summary claims that it ended."""
    with pytest.raises(ValueError, match="broken"), Lines().stage("download", 400):
        raise ValueError("broken")
    assert capsys.readouterr().err == ""


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    """For library use nothing is shown."""
    with Silent().stage("download", 10) as stage:
        stage.advance(10)
    assert capsys.readouterr().err == ""
