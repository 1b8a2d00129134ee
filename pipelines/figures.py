"""Numbers of a plan: exact, about right, an upper bound or not known; and how people read them."""

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["exact", "about", "at most", "at most about", "unknown"]


@dataclass(frozen=True)
class Figure:
    """A number of a plan; ``least`` and ``most`` bound it where that is known, ``digits`` are worth printing."""

    value: float
    kind: Kind = "exact"
    least: float | None = None
    most: float | None = None
    digits: int = 2

    def __str__(self) -> str:
        """``2,812``, ``about 2,800``, ``at most 3,180``, ``?``."""
        if self.kind == "unknown":
            return "?"
        if self.kind.endswith("about"):
            return f"{self.kind} {rounded(self.value, self.digits):,.0f}"
        return f"{self.value:,.0f}" if self.kind == "exact" else f"at most {self.value:,.0f}"

    @property
    def is_bound(self) -> bool:
        """Whether it is an upper bound."""
        return self.kind.startswith("at most")


def rounded(value: float, digits: int = 2) -> float:
    """The number with its leading digits only."""
    if not value:
        return 0.0
    return float(round(value, digits - 1 - math.floor(math.log10(abs(value)))))


def short(value: float, digits: int = 2) -> str:
    """The leading digits, without an exponent: ``0.0042``, ``12``, ``1,200``."""
    found = rounded(value, digits)
    places = max(0, digits - 1 - math.floor(math.log10(abs(found)))) if found else 0
    return f"{found:,.{places}f}"


def size(value: float) -> str:
    """Bytes for people: ``1.2 GB``."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = next((i for i in range(len(units)) if value < 999.5 * 1000**i), len(units) - 1)
    return f"{short(value / 1000**power)} {units[power]}"


def duration(seconds: float) -> str:
    """A time for people: ``43 s``, ``12 min``, ``7.5 h``, ``12 days``."""
    if seconds < 1:
        return "under 1 s" if seconds else "0 s"
    for unit, length, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 48)):
        if seconds < most * length:
            return f"{short(seconds / length)} {unit}"
    return f"{short(seconds / 86_400)} days"


def wilson(hits: float, tries: float) -> tuple[float, float]:
    """The 95 % interval of a share that a sample shows (Wilson's)."""
    if not tries:
        return 0.0, 1.0
    z = 1.96
    share, squared = hits / tries, z * z / tries
    middle = (share + squared / 2) / (1 + squared)
    half = z / (1 + squared) * math.sqrt(share * (1 - share) / tries + squared / (4 * tries))
    return max(0.0, middle - half), min(1.0, middle + half)
