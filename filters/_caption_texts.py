"""What a model or a server wrote, as a caption that can be stored: one line of plain text, or nothing."""

import unicodedata

REPLACEMENT = "\ufffd"
_REFUSED = ("Cc", "Cs")
"""Unicode's control characters, and halves of surrogate pairs, which no text file holds."""


def clean(text: str) -> str | None:
    """One line: space collapsed, control and replacement characters out; None for nothing.

    About 1 µs a caption that has none of them.
    """
    found = " ".join(text.split())
    if not found.isprintable() or REPLACEMENT in found:
        kept = (one for one in found if one != REPLACEMENT and unicodedata.category(one) not in _REFUSED)
        found = " ".join("".join(kept).split())
    return found or None
