"""One page of a MediaWiki export, and its wikitext as plain text.

expat parses a page by itself: there is no document type in it, so no entity can be declared, and one that is
not XML's own makes the page a broken one.  mwparserfromhell's ``strip_code`` is the wall: about 1 MB/s.
"""

import re
from dataclasses import dataclass
from typing import Any
from xml.parsers import expat

ARTICLE = "0"
WIKITEXT = "wikitext"
UNCLOSED = 1000
"""Tags without an end: a page with more is broken, for the parser's time grows with their square (1 s here)."""
_OPENS = re.compile(r"<(?!(?:br|hr|wbr|li|dd|dt|tr|td|th)\b)[a-z]", re.IGNORECASE)
_ENDS = re.compile(r"</|/>")
_READ = ("ns", "model", "text")


@dataclass(frozen=True)
class Page:
    """What counts of a page: namespace, whether it is a redirect, content model, wikitext of its last revision."""

    namespace: str
    is_redirect: bool
    model: str
    text: str

    @classmethod
    def parse(cls, content: bytes) -> "Page | None":
        """A page from ``<page>`` to ``</page>``; None where that is not XML in UTF-8, or has no namespace."""
        fields = _Fields()
        try:
            fields.read(content)
        except expat.ExpatError:
            return None
        found = fields.found
        if not found["ns"].strip():
            return None
        return cls(found["ns"].strip(), fields.is_redirect, found["model"].strip() or WIKITEXT, found["text"])

    @property
    def passed_over(self) -> str | None:
        """Why a page is no article, if it is none."""
        if self.namespace != ARTICLE:
            return "other_namespace"
        if self.is_redirect:
            return "redirect"
        return None if self.model == WIKITEXT else "other_model"


class _Fields:
    """Gathers the text of a few elements; the last of each name counts."""

    def __init__(self) -> None:
        self.found = dict.fromkeys(_READ, "")
        self.is_redirect = False
        self._parts: list[str] = []

    def read(self, content: bytes) -> None:
        parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._parts.append
        parser.Parse(content, True)

    def _start(self, name: str, attributes: dict[str, Any]) -> None:
        self.is_redirect |= name == "redirect"
        self._parts.clear()

    def _end(self, name: str) -> None:
        if name in self.found:
            self.found[name] = "".join(self._parts)
        self._parts.clear()


def plain_text(wikitext: str, silent: tuple[str, ...] = ()) -> str | None:
    """Wikitext as mwparserfromhell's ``strip_code`` leaves it; None where it cannot be parsed.

    References, and links to the namespaces of ``silent`` (files, categories), are left out first: ``strip_code``
    would leave ``thumb|right|…`` as text.
    """
    import mwparserfromhell

    if len(_OPENS.findall(wikitext)) - len(_ENDS.findall(wikitext)) > UNCLOSED:
        return None
    try:
        code = mwparserfromhell.parse(wikitext)
        _prune(code, silent)
        return str(code.strip_code())
    except Exception:  # whatever its parser raises on broken markup; the page is counted as broken
        return None


def _prune(code: Any, silent: tuple[str, ...]) -> None:
    """Leave out references and silent links, within tables and emphasis too; the parser bounds the depth."""
    from mwparserfromhell.nodes import Tag

    code.nodes = [node for node in code.nodes if not _is_silent(node, silent)]
    for node in code.nodes:
        if isinstance(node, Tag) and node.contents is not None:
            _prune(node.contents, silent)


def _is_silent(node: Any, silent: tuple[str, ...]) -> bool:
    """Whether a node is a reference, or links to a silent namespace; ``[[:File:…]]`` is a plain link."""
    from mwparserfromhell.nodes import Tag, Wikilink

    if isinstance(node, Wikilink):
        name, colon, _ = str(node.title).partition(":")
        return bool(colon) and name.strip().lower() in silent
    return isinstance(node, Tag) and str(node.tag).strip().lower() == "ref"
