"""Named arrays of small model files, from disk or hub: ``torch.save`` (not unpickled), ``.npz``, ``.safetensors``."""

import zipfile
import zlib
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pairsieve.filters import _torch_file
from pairsieve.filters._torch_pickle import Tensor, Unreadable
from pairsieve.schemas.errors import MissingExtraError, UserError

HUB = "hf-hub:"
TORCH = (".pth", ".pt", ".bin", ".ckpt")
ENDINGS = (*TORCH, ".npz", ".safetensors")
MOST_BYTES = 1 << 30
"""A file that is larger, or unpacks to more, is no head: LAION's largest has 22 MB."""
MOST_ARRAYS = 1000

Arrays = dict[str, NDArray[Any]]


def is_on_hub(name: str) -> bool:
    """Whether a name is of the form ``hf-hub:org/repository/file``."""
    return name.startswith(HUB)


def check_name(name: str) -> None:
    """Refuse what is no file, nor of the form of one on the hub; raises ``ValueError`` or ``UserError``."""
    if is_on_hub(name):
        hub_file(name)
        if find_spec("huggingface_hub") is None:
            raise MissingExtraError(f"{name} needs huggingface_hub: pip install huggingface_hub")
    elif "\0" in name or not local(name).is_file():
        raise UserError(f"there is no file {name!r}; give {', '.join(ENDINGS)}, or hf-hub:org/name/file")
    if not name.lower().endswith(ENDINGS):
        raise UserError(f"{name}: weights are read from {', '.join(ENDINGS)}; convert it")


def local(name: str) -> Path:
    """A path, with the home of its user filled in."""
    return Path(name).expanduser() if name.startswith("~/") else Path(name)


def hub_file(name: str) -> tuple[str, str]:
    """Repository and file; raises ``ValueError`` for another form."""
    parts = name.removeprefix(HUB).split("/", 2)
    if len(parts) < 3 or not all(parts):
        raise ValueError(f"{name!r} is not of the form hf-hub:org/name/file")
    return "/".join(parts[:2]), parts[2]


def fetched(name: str) -> Path:
    """The file of a path or hub name, from the hub's local cache where it is there; raises ``UserError``."""
    if not is_on_hub(name):
        return local(name)
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(*hub_file(name)))
    except Exception as error:  # the hub raises its own errors, those of requests, and of the disk
        why = (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(": ")
        raise UserError(f"cannot fetch {name!r}: {why}; download the file and give its path") from None


def read_arrays(path: Path) -> Arrays:
    """Every array of a file by name, float or integer; raises ``UserError`` with the file's name."""
    try:
        _check_size(path)
        return _read(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except MissingExtraError:
        raise
    except Exception as error:  # of a damaged file: whatever three formats raise
        known = (ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error)
        text = " ".join(str(error).split())[:300] if isinstance(error, known) else f"is damaged: {error}"[:300]
        raise UserError(f"{path}: {text or type(error).__name__}; give a file of named arrays") from None


def _read(path: Path) -> Arrays:
    name = path.name.lower()
    if name.endswith(".safetensors"):
        return _read_safetensors(path)
    if name.endswith(".npz"):
        if not zipfile.is_zipfile(path):
            raise ValueError("is no .npz file")
        with path.open("rb") as source, np.load(source, allow_pickle=False) as members:
            return {each: np.asarray(members[each]) for each in members.files[:MOST_ARRAYS]}
    return _read_torch(path)


def _read_torch(path: Path) -> Arrays:
    """Tensors of a ``state_dict``, also of one under that name in a checkpoint."""
    marks = _torch_file.load(str(path), _tensors)
    return {name: _torch_file.load(str(path), partial(_tensor, name)) for name in marks}


def _tensor(name: str, content: Any) -> Tensor:
    return _tensors(content)[name]


def _tensors(content: Any) -> dict[str, Tensor]:
    inner = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(inner, dict):
        raise Unreadable(f"holds {type(content).__name__}, not tensors by name")
    found = {name: value for name, value in inner.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not found or len(found) > MOST_ARRAYS:
        raise Unreadable(f"holds {len(found)} tensors by name")
    return found


def _read_safetensors(path: Path) -> Arrays:
    if find_spec("safetensors") is None:
        raise MissingExtraError(f"{path} needs safetensors: pip install 'pairsieve[clip]'")
    from safetensors import safe_open

    with safe_open(str(path), framework="np") as file:
        names = list(file.keys())
        if len(names) > MOST_ARRAYS:
            raise ValueError(f"holds {len(names)} arrays")
        return {name: file.get_tensor(name) for name in names}


def _check_size(path: Path) -> None:
    """Refuse what would fill the memory."""
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as members:
            size = max(size, sum(member.file_size for member in members.infolist()))
    if size > MOST_BYTES:
        raise ValueError(f"holds {size >> 20} MiB, more than {MOST_BYTES >> 20}")
