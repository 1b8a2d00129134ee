"""Samples that resharding cannot use: why, how many, and what the first few are called."""

from collections.abc import Mapping, Sequence

WITHOUT_UID, NO_IMAGE, LONG_ENDING, KEY_AGAIN = "without_uid", "no_image", "ending_too_long", "key_again"
LONGEST_ENDING = 40
"""Longer endings leave no room for uid and number in a USTAR header."""
_WHY = {
    WITHOUT_UID: "without a uid in their json",
    NO_IMAGE: "without an image",
    LONG_ENDING: f"with an ending of more than {LONGEST_ENDING} bytes",
    KEY_AGAIN: "whose key comes again in the same tar",
}
NAMED = 3
"""Samples that are named for each flaw."""
LONGEST_NAME = 120
"""Characters of a name in messages; a hostile tar may have names of a megabyte."""


class Flaws:
    """Number of samples by flaw, and the names of the first ``NAMED``."""

    def __init__(
        self, counts: Mapping[str, int] | None = None, names: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """None so far, or those of a manifest."""
        self.counts = dict(counts or {})
        self.names = {flaw: list(found) for flaw, found in (names or {}).items()}

    def add(self, flaw: str, name: str) -> None:
        """Count one, and name it where it is among the first."""
        short = name[:LONGEST_NAME]
        self.update({flaw: 1}, {flaw: [short if short.isprintable() else ascii(short)]}, "")

    def update(self, counts: Mapping[str, int], names: Mapping[str, Sequence[str]], place: str) -> None:
        """Add those of a shard; ``place`` goes before their names."""
        for flaw, count in counts.items():
            self.counts[flaw] = self.counts.get(flaw, 0) + count
            held = self.names.setdefault(flaw, [])
            new = dict.fromkeys(place + name for name in names.get(flaw, ()))  # a key may come again
            held += [name for name in new if name not in held][: NAMED - len(held)]

    def lines(self) -> list[str]:
        """``2 samples without an image (0.tar a, 0.tar b)`` for each flaw, in the order of their names."""
        found = []
        for flaw, count in sorted(self.counts.items()):
            names = self.names.get(flaw, [])
            named = ", ".join(names) + (", …" if count > len(names) else "")
            found.append(f"{count:,} sample{'s' * (count != 1)} {_WHY.get(flaw, flaw)} ({named})")
        return found

    def told(self) -> str:
        """What a message says of them; nothing where there are none."""
        return "".join(f"; {line}" for line in self.lines())
