"""Build a list of metadata entries: WordNet, Wikipedia's words, bigrams and titles.  See ``docs/metadata.md``.

Pieces of the dumps are counted anywhere (``metadata_ngrams``), their runs added up stretch by stretch
(``metadata_merge``), and the driver selects (``metadata_select``).  The file depends on the inputs and rules
alone.  A build that is stopped continues: counted pieces lie in ``<file>.work`` until it is finished.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any

from pairsieve.filters._wordnet import Source
from pairsieve.pipelines.engine import Engine, Needs
from pairsieve.pipelines.engines import EngineName, Engines
from pairsieve.pipelines.lock import locked
from pairsieve.pipelines.metadata_inputs import Piece, TextFile, bundles, list_texts, pieces
from pairsieve.pipelines.metadata_merge import MEMORY, Merged, MergePairs, MergeWords, Relabel, Run, stretches
from pairsieve.pipelines.metadata_ngrams import Count, Counted
from pairsieve.pipelines.metadata_out import FileEntry, MetadataManifest, Output, SourceEntry, versions
from pairsieve.pipelines.metadata_select import Selection, Taken
from pairsieve.pipelines.metadata_settings import V1, Rules, Sources
from pairsieve.pipelines.metadata_titles import Viewed, ViewFile, Views, list_views
from pairsieve.pipelines.metadata_tokens import DEFINITION, load_segmenter
from pairsieve.pipelines.metadata_wordnet import find_wordnet, wordnet_entries, wordnet_files
from pairsieve.pipelines.progress import Reporter, Silent
from pairsieve.pipelines.storage_errors import explained
from pairsieve.pipelines.store import Store, filesystem
from pairsieve.pipelines.workshop import workshop
from pairsieve.schemas.errors import MissingExtraError, UserError

NEEDS = Needs(memory=MEMORY * 5 // 4, is_light=False)
"""Of every task, so that workers are kept between them: counting takes 0.7 GB, adding up DuckDB's limit and more."""


def build(
    out: str,
    sources: Sources,
    rules: Rules = V1,
    *,
    force: bool = False,
    engine: EngineName = "auto",
    ray_address: str | None = None,
    workers: int | None = None,
    progress: Reporter | None = None,
) -> MetadataManifest:
    """Write the metadata file ``out`` and its manifest.

    Raises ``UserError`` for what cannot be used, ``PoolError`` for files that cannot be read.
    """
    progress = progress or Silent()
    sources.check()
    output = Output(out, force=force)
    wordnet = find_wordnet(sources.wordnet) if sources.is_wordnet else None
    texts, views = list_texts(sources.wikipedia), list_views(sources.titles)
    _need(texts, sources)
    store = Store(output.work_root())
    with locked(store, progress.say), explained(store.root), Engines(engine, store, ray_address, workers) as engines:
        if urls := [*(file.url for file in texts), *(file.url for file in views)]:
            fs, path = filesystem(urls[0])
            engines.use([], fs, path)
        manifest = _Build(store, sources, rules, wordnet, texts, views, engines, progress).run(output)
    output.store.remove(output.work)
    return manifest


def _need(texts: Sequence[TextFile], sources: Sources) -> None:
    """Raise ``UserError`` for packages that are missing, and a segmenter that is none, before work begins."""
    needed = ["numba"] if texts else []
    needed += ["mwparserfromhell"] if any(file.kind == "xml" for file in texts) else []
    if lost := [name for name in needed if find_spec(name) is None]:
        raise MissingExtraError(f"--wikipedia needs {lost[0]}: pip install 'pairsieve[metaclip]'")
    if sources.segmenter is not None:
        load_segmenter(sources.segmenter)


class _Build:
    """One build under its lock."""

    def __init__(
        self,
        store: Store,
        sources: Sources,
        rules: Rules,
        wordnet: Source | None,
        texts: Sequence[TextFile],
        views: Sequence[ViewFile],
        engines: Engines,
        progress: Reporter,
    ) -> None:
        self.store, self.sources, self.rules, self.wordnet = store, sources, rules, wordnet
        self.texts, self.views, self.engines, self.progress = texts, views, engines, progress
        self.said: dict[str, Any] = {}
        self.notes: list[str] = []
        self.folder = self._workplace()

    def _workplace(self) -> str:
        """The folder of this build's runs; those of any other go."""
        wanted = (self.texts, self.views, self.sources, self.rules.hour_least, DEFINITION, self._versions())
        name = hashlib.sha256(repr(wanted).encode()).hexdigest()[:32]
        for other in self.store.names(""):
            if other != name and not other.startswith("."):
                self.store.remove(other)
        return name

    @property
    def engine(self) -> Engine:
        """Started when there is work for it."""
        return self.engines.for_ingest()

    def run(self, output: Output) -> MetadataManifest:
        """All sources in their order, then the file."""
        with workshop(self.store) as con:
            chosen = Selection(con, self.rules)
            if self.wordnet is not None:
                chosen.wordnet(wordnet_entries(self.wordnet))
            if self.texts:
                self._words(chosen)
            if self.views:
                self._titles(chosen)
            table, taken = chosen.table(self.sources.language)
        if not len(table):
            raise UserError(f"no entry is left of {', '.join(taken)}{self._why()}; lower the thresholds")
        for note in self.notes:
            self.progress.say(note)
        return output.write(
            table,
            sources=tuple(self._entry(name, one) for name, one in taken.items()),
            rules=self.rules.record(),
            versions=self._versions(),
            notes=tuple(self.notes),
            **self.said,
        )

    def _why(self) -> str:
        return f" ({'; '.join(self.notes)})" if self.notes else ""

    def _versions(self) -> dict[str, str]:
        return versions(*(["mwparserfromhell"] if any(file.kind == "xml" for file in self.texts) else []))

    def _words(self, chosen: Selection) -> None:
        """Unigrams and bigrams."""
        counted = self._count()
        tokens = self.said["texts"].get("tokens", 0)
        if not tokens:
            raise UserError(f"--wikipedia: no word in {self.said['texts']}; are these the right files?")
        runs = [run for one in counted for run in one.runs]
        words = self._merge(MergeWords(self.store, self.folder, runs), sum(one.words for one in counted), "words")
        chosen.unigrams(self._urls(words))
        least = self.rules.bigrams.least if self.rules.score == "pmi" else None
        task = MergePairs(
            self.store,
            self.folder,
            self._relabel(runs, words),
            [one.name for one in words],
            tokens,
            self.rules.count_least,
            least,
            self.rules.long_most,
        )
        pairs = self._merge(task, sum(one.pairs for one in counted), "bigrams")
        floor = chosen.bigrams(self._urls(pairs), sum(one.distinct for one in pairs), self.sources.separator)
        self.said["pmi_percentile"] = floor
        if least is not None and math.log2(tokens) < least:
            self.notes.append(
                f"bigrams: among {tokens:,} words no PMI exceeds {math.log2(tokens):.1f}, so none reaches {least:g}; "
                "take more text, or --bigram-least, or --bigram-most with --bigram-score metaclip2"
            )

    def _count(self) -> list[Counted]:
        cut = pieces(self.texts)
        work = bundles(cut)
        count = Count(self.store, self.folder, self.sources.segmenter)
        found = [Counted()] * len(work)
        tally = Counter[str]()
        with self.progress.stage("count words", 0) as stage:
            for i, one in self.engine.map(count, work, NEEDS, "count words"):
                found[i] = one
                tally.update(one.tally)
                stage.advance(one.tally.get("texts", 0), f"{tally['tokens']:,} words")
        self.said["texts"] = {name: number for name, number in sorted(tally.items()) if number}
        self.said["tokenizer"] = self._tokenizer()
        if tally["broken"]:
            self.notes.append(
                f"broken: {tally['broken']:,} of {tally['pages']:,} pages or lines; they were passed over"
            )
        self._note_single(cut)
        return found

    def _tokenizer(self) -> dict[str, str]:
        if self.sources.segmenter is not None:
            return {"segmenter": self.sources.segmenter, "bigrams": "joined without a space"}
        return {"words": DEFINITION, "bigrams": "joined by a space"}

    def _note_single(self, work: Iterable[Piece]) -> None:
        """Say which large file could not be cut."""
        for piece in work:
            if piece.parts == 1 and piece.file.packing is not None and piece.file.size > 1 << 30:
                self.notes.append(
                    f"{piece.file.url}: one stream, so one worker read it; a -multistream dump, or plain files, is cut"
                )

    def _relabel(self, runs: Sequence[str], words: Sequence[Merged]) -> list[str]:
        work = [Run(i, name) for i, name in enumerate(runs)]
        found = dict(self.engine.map(Relabel(self.store, self.folder, words), work, NEEDS, "number words"))
        return [found[i] for i in range(len(work))]

    def _merge(self, task: Any, rows: int, what: str) -> list[Merged]:
        work = stretches(rows)
        found = [Merged("", 0)] * len(work)
        with self.progress.stage(f"add up {what}", 0) as stage:
            for i, one in self.engine.map(task, work, NEEDS, f"add up {what}"):
                found[i] = one
                stage.advance(one.distinct)
        return found

    def _urls(self, files: Iterable[Merged]) -> list[str]:
        return [self.store.url(one.name) for one in files]

    def _titles(self, chosen: Selection) -> None:
        project = self.sources.project or self.sources.language
        task = Views(self.store, self.folder, project, self.rules.hour_least)
        found = list[Viewed]()
        with self.progress.stage("page views", 0) as stage:
            for _, one in self.engine.map(task, self.views, NEEDS, "page views"):
                found.append(one)
                stage.advance(one.lines)
        lines, broken = sum(one.lines for one in found), sum(one.broken for one in found)
        if not lines:
            raise UserError(f"--titles: no line of the project {project!r}; set --project to a code that is there")
        self.said["views"] = {"lines": lines, "broken": broken}
        if broken:
            self.notes.append(f"page views: {broken:,} lines cannot be read; they were passed over")
        chosen.titles([self.store.url(one.name) for one in found])

    def _entry(self, source: str, taken: Taken) -> SourceEntry:
        return SourceEntry(
            source=source, files=tuple(self._files(source)), seen=taken.seen, passed=taken.passed, new=taken.new
        )

    def _files(self, source: str) -> Iterable[FileEntry]:
        if source == "wordnet" and self.wordnet is not None:
            yield from wordnet_files(self.wordnet)
            return
        for file in self.views if source == "titles" else self.texts:
            yield FileEntry(path=file.url, size=file.size, stamp=_when(file.stamp))


def _when(stamp: str) -> str:
    """Time or tag of a file."""
    return stamp.rstrip("\n").rsplit("\0", 1)[-1]
