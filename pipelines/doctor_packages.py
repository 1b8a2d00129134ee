"""What is installed: Python, what every run imports, and the extras with what each gives.

Reads the metadata of installed packages; imports none of them.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from pairsieve.pipelines.doctor import Finding, note, ok, problem

GIVES = {
    "ray": "the Ray engine, on this machine or a cluster",
    "clip": "clip_score, zero_shot, search by text",
    "caption": "caption, itm, sieve, rewrite by models of transformers",
    "metrics": "captions score: BLEU, METEOR, CIDEr",
    "explore": "the explorer: pairs by thumbnails, thresholds moved by hand",
    "train": "PairDataset, the training loader",
    "s3": "pools and runs on S3",
    "language": "the language filter",
    "entities": "text_entities",
    "cluster": "semantic_duplicates, image_cluster, cluster",
    "datacomp": "every recipe of DataComp's track",
    "metaclip": "metadata, metadata_match, metadata_balance",
    "phrases": "noun_phrases",
    "dedup": "near duplicates of captions and images",
    "track": "recipes compared by what models learn",
}
"""The extras that users install, and what would be missing without."""
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)(?:\[([^\]]*)\])?\s*(?:>=\s*([0-9.]+))?")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
_SHOWN = 4


def versions() -> Iterator[Finding]:
    """pairsieve's own, and Python's."""
    yield ok("versions", f"pairsieve {version('pairsieve')}, Python {sys.version.split()[0]}")


def packages() -> Iterator[Finding]:
    """What every run needs, and how far the installed versions are from the tested ones."""
    wanted = _wanted("")
    bad = [said for name, least in wanted.items() if (said := _lacking(name, least))]
    if bad:
        yield problem("packages", f"every run needs {', '.join(bad)}", "pip install --upgrade pairsieve")
    else:
        yield ok("packages", f"the {len(wanted)} that every run needs are there")
    if others := _untested():
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        said = f"other versions than tested: {', '.join(others[:_SHOWN])}{more}"
        yield note("packages", said, "only if something fails: pip install -c constraints.txt ...")


def extras() -> Iterator[Finding]:
    """Each extra: there, or what it would give."""
    missing = {extra: lacks for extra in GIVES if (lacks := _missing(extra))}
    if there := [extra for extra in GIVES if extra not in missing]:
        yield ok("extras", ", ".join(there))
    for extra, lacks in missing.items():
        said = f"{extra} ({GIVES[extra]}) lacks {', '.join(lacks)}"
        yield note("extras", said, f"only if you want it: pip install 'pairsieve[{extra}]'")


def _missing(extra: str) -> list[str]:
    return [said for name, least in _wanted(extra).items() if (said := _lacking(name, least))]


def _wanted(extra: str) -> dict[str, str]:
    """Package -> least version, of an extra with those that it names; of "" those of every run."""
    found: dict[str, str] = {}
    for line in requires("pairsieve") or []:
        of, match = _EXTRA.search(line), _REQUIREMENT.match(line)
        if match is None or (of[1] if of else "") != extra:
            continue
        if match[1] == "pairsieve":
            for other in (match[2] or "").split(","):
                found |= _wanted(other.strip())
        else:
            found[match[1]] = match[3] or ""
    return found


def _lacking(name: str, least: str) -> str:
    """What is wrong with a package; nothing where it is as wanted."""
    try:
        have = version(name)
    except PackageNotFoundError:
        return name
    return f"{name} {least} or later (there is {have})" if _numbers(have) < _numbers(least) else ""


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0]))


def _untested() -> list[str]:
    """Installed packages of other versions than a checkout's constraints; nothing where they are not at hand."""
    file = Path(__file__).resolve().parent.parent / "constraints.txt"
    if not file.is_file():
        return []
    found = []
    ours = set(_wanted("")).union(*(_wanted(extra) for extra in GIVES))
    for line in file.read_text().splitlines():
        name, _, tested = line.partition("==")
        if name.replace("_", "-") in {one.replace("_", "-") for one in ours} and (have := _version(name)) != tested:
            found += [f"{name} {have} ({tested})"] if have else []
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
