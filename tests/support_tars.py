"""Pools as DataComp's download leaves them: numbered tars of jpg, json, txt with a uid in the json."""

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Members = dict[str, bytes]


def uid_of(number: int) -> str:
    """A uid of a sample, by its number."""
    return hashlib.md5(str(number).encode()).hexdigest()


def sample(number: int, **fields: Any) -> Members:
    """A sample as img2dataset writes it; its image is a few hundred bytes that no other has."""
    noise = random.Random(number).randbytes(200 + number % 700)
    told = {"uid": uid_of(number), "key": f"{number:09d}", "caption": f"thing {number}", "width": 64, "height": 48}
    return {
        "jpg": b"\xff\xd8\xff" + noise,
        "json": json.dumps(told | fields).encode(),
        "txt": f"thing {number}".encode(),
    }


def write_tar(path: Path, samples: Mapping[str, Members], kind: int = tarfile.PAX_FORMAT, mtime: float = 1.5) -> Path:
    """A tar; by default with a PAX header a member, as webdataset writes it."""
    with tarfile.open(path, "w", format=kind) as file:
        for key, members in samples.items():
            for ending, content in members.items():
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size, info.mtime = len(content), mtime
                file.addfile(info, io.BytesIO(content))
    return path


def write_pool(root: Path, shards: int = 6, rows: int = 20) -> Path:
    """Tars of samples 0, 1, 2, … in order."""
    root.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        numbers = range(shard * rows, (shard + 1) * rows)
        write_tar(root / f"{shard:08d}.tar", {f"{shard:05d}{n % rows:04d}": sample(n) for n in numbers})
        (root / f"{shard:08d}_stats.json").write_text(json.dumps({"successes": rows}))
    return root


def records(uids: Iterable[str]) -> NDArray[np.void]:
    """uids as DataComp's records, in the given order."""
    return np.array([divmod(int(one, 16), 2**64) for one in uids], np.dtype("u8,u8"))


def write_subset(path: Path, numbers: Iterable[int]) -> Path:
    """The sorted subset of some samples; a number that comes twice is wanted twice."""
    np.save(path, np.sort(records(uid_of(number) for number in numbers)))
    return path


def read_tars(folder: Path) -> dict[str, list[tuple[str, Members]]]:
    """What Python's tarfile reads: by shard (key, members) in order."""
    return {path.name: read_tar(path) for path in sorted(folder.glob("*.tar"))}


def read_tar(path: Path) -> list[tuple[str, Members]]:
    """(key, members) in order."""
    found: list[tuple[str, Members]] = []
    with tarfile.open(path) as file:
        for member in file:
            key, _, ending = member.name.partition(".")
            if not found or found[-1][0] != key:
                found.append((key, {}))
            content = file.extractfile(member)
            assert content is not None
            found[-1][1][ending] = content.read()
    return found


def flat(shards: Mapping[str, Sequence[tuple[str, Members]]]) -> list[tuple[str, Members]]:
    """All samples of all shards."""
    return [one for shard in shards.values() for one in shard]
