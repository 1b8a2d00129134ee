"""What pycocoevalcap has as Java archives: the Penn Treebank tokenizer, and METEOR 1.5.

Archives are only read: texts go in by the standard input, nothing is written beside the package (which may not be
writable) or left in a temporary folder.  A process ends with its time, whatever it does.  Starting one takes about a
second; METEOR reads its paraphrases for 5 s and more, then scores some 500 captions a second.
"""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, PIPE
from tempfile import TemporaryDirectory
from threading import Thread, Timer
from urllib.parse import quote

from pairsieve.schemas.errors import MissingExtraError, UserError

_TOKENIZER = ("tokenizer", "stanford-corenlp-3.4.1.jar")
_METEOR = ("meteor", "meteor-1.5.jar")
_PUNCTUATION = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)
_FLAGS = ("-XX:-UsePerfData", "-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US")
SECONDS = 300.0
"""Of a process, and a hundredth for each line that it is given."""


def has_java() -> bool:
    """Whether the command ``java`` is there."""
    return shutil.which("java") is not None


def tokenized(texts: Sequence[str]) -> list[str]:
    """Each text in lower case, its words and their parts separated by spaces, without punctuation: as COCO has it."""
    archive = _archive(*_TOKENIZER)
    name = "edu.stanford.nlp.process.PTBTokenizer"
    command = ["-cp", str(archive), name, "-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    lines = _java("the tokenizer", command, texts)
    if len(lines) != len(texts):
        raise UserError(f"the tokenizer gave {len(lines)} lines for {len(texts)} captions; try --tokenizer none")
    return [" ".join(word for word in line.split() if word not in _PUNCTUATION) for line in lines]


def meteor(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """METEOR of all, and of each, of tokenized texts."""
    asked = [_fields("SCORE", [*refs, text]) for text, refs in zip(hypotheses, references, strict=True)]
    with _plain_place(_archive(*_METEOR)) as archive, _talk("METEOR", _meteor_command(archive), len(asked)) as java:
        found = java.answers(asked, len(asked))
        scores = java.answers([" ||| ".join(["EVAL", *found])], len(asked) + 1)
    try:
        *each, whole = map(float, scores)
    except ValueError:
        raise UserError(f"METEOR gave no numbers: {' '.join(scores)[:100]!r}") from None
    return whole, each


def _meteor_command(archive: Path) -> list[str]:
    return ["-Xmx2G", "-jar", str(archive), "-", "-", "-stdio", "-l", "en", "-norm"]


@contextmanager
def _plain_place(archive: Path) -> Iterator[Path]:
    """The archive where a space is none: METEOR looks for its data beside itself by a URL, and Java follows links."""
    if quote(str(archive)) == str(archive):
        yield archive
        return
    with TemporaryDirectory(prefix="pairsieve-") as folder:
        (Path(folder) / "data").symlink_to(archive.parent / "data")
        yield Path(shutil.copy(archive, folder))


def _fields(name: str, texts: Sequence[str]) -> str:
    """A line of METEOR's protocol; the sign between fields is taken out of them."""
    return " ||| ".join([name, *(" ".join(text.replace("|||", " ").split()) for text in texts)])


def _archive(*parts: str) -> Path:
    """A Java archive of the package; raises where it is not installed."""
    spec = find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("caption metrics need pycocoevalcap: pip install 'pairsieve[metrics]'")
    return Path(next(iter(spec.submodule_search_locations))).joinpath(*parts)


def _java(what: str, command: Sequence[str], lines: Sequence[str]) -> list[str]:
    """All that a Java program makes of lines; raises ``UserError`` with one line where it fails."""
    with _talk(what, command, len(lines)) as java:
        return java.answers(lines, None)


class _Talk:
    """A Java program that reads and writes lines; what it writes is read while another thread writes to it."""

    def __init__(self, what: str, process: "subprocess.Popen[bytes]") -> None:
        self._what, self._process = what, process

    def answers(self, lines: Sequence[str], count: int | None) -> list[str]:
        """So many lines of an answer; null: all until the program ends, which it does when its input has."""
        assert self._process.stdin and self._process.stdout
        writer = Thread(target=self._write, args=("".join(line + "\n" for line in lines).encode(), count is None))
        writer.start()
        try:
            if count is None:
                found = self._process.stdout.read().decode(errors="replace").removesuffix("\n").split("\n")
            else:
                read = (self._process.stdout.readline().decode(errors="replace") for _ in range(count))
                found = [line.rstrip("\n") for line in read if line]
        finally:
            writer.join()
        if (count is not None and len(found) != count) or (count is None and self._process.wait()):
            raise UserError(f"{self._what} failed or did not end in time; java ended with {self._process.wait()}")
        return found

    def _write(self, data: bytes, is_all: bool) -> None:
        stdin = self._process.stdin
        assert stdin
        with suppress(OSError):  # of a program that has ended: its reader says so
            stdin.write(data)
            stdin.flush()
            if is_all:
                stdin.close()


@contextmanager
def _talk(what: str, command: Sequence[str], lines: int) -> Iterator[_Talk]:
    """A Java program for a while; it is killed when its time is over, or nobody asks any more."""
    java = shutil.which("java")
    if java is None:
        raise UserError(f"{what} needs Java: install a JRE (apt install default-jre-headless), or leave it out")
    started = [java, *_FLAGS, *command]
    with subprocess.Popen(started, stdin=PIPE, stdout=PIPE, stderr=DEVNULL) as process:
        clock = Timer(SECONDS + lines / 100, process.kill)
        clock.start()
        try:
            yield _Talk(what, process)
        finally:
            clock.cancel()
            process.kill()
            with suppress(OSError):
                process.stdin.close() if process.stdin else None
