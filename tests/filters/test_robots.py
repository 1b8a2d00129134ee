"""X-Robots-Tag: dates after which a page is gone, and names that a site may address."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.filters._fetch import Policy
from pairsieve.filters._robots import opted_out

DISALLOWED = ("noai", "noimageai", "noml", "noindex", "noimageindex")
NOW = datetime(2026, 6, 1, tzinfo=UTC).timestamp()


def found(line: str, *agents: str) -> str | None:
    """What one header line rules out, in June 2026."""
    return opted_out([line], agents or ("pairsieve",), DISALLOWED, NOW)


@pytest.mark.parametrize(
    "date",
    [
        "25 Jun 2025 15:00:00 PST",
        "Wed, 25 Jun 2025 15:00:00 GMT",
        "Wednesday, 25-Jun-25 15:00:00 GMT",
        "25-Jun-2025 15:00:00 GMT",
        "2025-06-25",
        "2025-06-25T15:00:00+02:00",
        "2025-06-25T15:00:00Z",
    ],
)
def test_past_dates_rule_out(date: str) -> None:
    """As noindex, in every spelling; in the future the same spelling does not; what follows the date counts too."""
    later = date.replace("2025", "2031").replace("-25 ", "-31 ")
    assert found(f"unavailable_after: {date}") == "noindex"
    assert found(f"unavailable_after: {later}") is None
    assert found(f"unavailable_after: {later}, noai") == "noai"
    assert found(f"nofollow, unavailable_after: {date}") == "noindex"


def test_a_date_is_addressed_too() -> None:
    """To another agent it is none of ours, and neither is one that cannot be read."""
    assert found("otherbot: unavailable_after: 25 Jun 2025 15:00:00 GMT") is None
    assert found("pairsieve: unavailable_after: 25 Jun 2025 15:00:00 GMT") == "noindex"
    assert found("unavailable_after: soon") is None
    assert found("unavailable_after:") is None


def test_only_disallowed_directives_count() -> None:
    """Where noindex is allowed, a past date rules nothing out."""
    assert opted_out(["unavailable_after: 1 Jan 2020 00:00:00 GMT"], "pairsieve", ("noai",), NOW) is None


def test_noml_counts() -> None:
    """The directive that Mojeek proposes says what noai says."""
    assert found("noml") == "noml"


@pytest.mark.parametrize(
    ("user_agent", "agents"),
    [
        ("pairsieve (image-text datasets; me@example.org)", ("pairsieve",)),
        ("LabBot pairsieve (me@example.org)", ("labbot", "pairsieve")),
        ("LabBot/1.2 pairsieve/0.1 (+https://example.org/bot)", ("labbot", "pairsieve")),
        ("img2dataset", ("img2dataset",)),
    ],
)
def test_names_in_the_user_agent(user_agent: str, agents: tuple[str, ...]) -> None:
    """Every product before the bracket may be addressed."""
    assert Policy(user_agent=user_agent).agents == agents
    assert all(found(f"{name}: noai", *agents) == "noai" for name in agents)
    assert found("somebody: noai", *agents) is None


@given(st.text(max_size=60), st.floats(0, 4e9))
def test_any_date_is_harmless(text: str, now: float) -> None:
    """Whatever stands where a date should."""
    assert opted_out([f"unavailable_after: {text}"], "pairsieve", DISALLOWED, now) in (None, *DISALLOWED)
