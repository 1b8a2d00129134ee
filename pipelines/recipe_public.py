"""A recipe as it may be shown to everybody: without credentials, and without the paths of a machine.

A run's ``run.yaml`` holds the recipe as resolved, and so the values of environment variables too.
"""

import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "***"
_SECRET = re.compile(r"(^|_)(key|token|secret|password|passwd|credential|credentials|auth|authorization|signature)s?$")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_PATH = re.compile(r"(?:~|/|[A-Za-z]:\\)")


def public(value: Any, name: str = "") -> Any:
    """The value with all that may be secret replaced by ``***``; local paths keep their last part."""
    if isinstance(value, dict):
        return {key: public(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [public(inner, name) for inner in value]
    if not isinstance(value, str):
        return value
    if _SECRET.search(name.lower()):
        return HIDDEN
    if _PATH.match(value) and "\n" not in value:
        return "…/" + re.split(r"[/\\]", value.rstrip("/"))[-1]
    return _URL.sub(lambda found: _bare(found[0]), value)


def _bare(url: str) -> str:
    """A URL without user, password, query and fragment, any of which may give access."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return HIDDEN
    if parts.scheme == "file":
        return f"file://…/{parts.path.rstrip('/').rpartition('/')[2]}"
    host = parts.netloc.rpartition("@")[2]
    if not (parts.query or parts.fragment or host != parts.netloc):
        return url
    shown = f"{HIDDEN}@{host}" if host != parts.netloc else host
    return urlunsplit((parts.scheme, shown, parts.path, HIDDEN if parts.query else "", ""))
