"""Which model in transformers' format a setting means, and what its config.json says; nothing is loaded.

A model is a local directory, or ``org/name`` on the Hugging Face hub, from where that one file is fetched once to plan
a run.  Weights are read from safetensors only, and no code of a repository is ever run.
"""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar, TypeVar

from pydantic import Field

from pairsieve.filters._clip_source import HUB_SECONDS, MOST_BYTES
from pairsieve.filters._model_folders import model_folder
from pairsieve.filters.base import Settings
from pairsieve.schemas.errors import MissingExtraError, UserError

T = TypeVar("T")
CONFIG = "config.json"
WEIGHTS = ".safetensors"
_MODEL_FILES = (WEIGHTS, ".json", ".txt", ".model", ".jinja")
"""Weights, configuration, tokenizer and chat template of a model's directory."""


class TransformersSource(Settings):
    """A model by name: what recipes say of it, and what follows from its configuration."""

    demo: ClassVar[str | None] = None
    """Directory of the demo's model of this kind, where there is one."""

    model: str = Field(min_length=1, max_length=4096, description="local directory, or org/name on the hub")
    revision: str | None = Field(None, min_length=1, max_length=255, description="branch, tag or commit on the hub")

    @property
    def folder(self) -> Path | None:
        """The local directory of the model, where it is one."""
        return model_folder(self.model, self.demo)

    @property
    def is_hub_id(self) -> bool:
        """Whether its name has the form of one on the hub; it need not be there."""
        parts = self.model.split("/")
        return self.folder is None and len(parts) == 2 and all(parts) and parts[0] not in (".", "..", "~")

    def check(self) -> None:
        """Refuse a model that does not exist, before anything runs; raises ``ValueError`` or ``UserError``."""
        if self.folder and self.revision:
            raise ValueError("'revision' goes with a model on the hub, not with a directory")
        if self.folder and not (self.folder / CONFIG).is_file():
            raise ValueError(f"model: {self.folder} holds no {CONFIG}; give a directory in transformers' format")
        if self.folder and not any(path.suffix == WEIGHTS for path in self.folder.iterdir()):
            raise ValueError(f"model: {self.folder} holds no weights ({WEIGHTS}); other formats are not read")
        if not self.folder and not self.is_hub_id:
            raise ValueError(f"model: there is no directory {self.model!r}; give one, or org/name on the hub")
        self.config()

    def files(self) -> tuple[str, ...]:
        """Local files that decide what it computes."""
        if not self.folder:
            return ()
        return tuple(str(p) for p in sorted(self.folder.iterdir()) if p.is_file() and p.suffix in _MODEL_FILES)

    def config(self) -> Mapping[str, Any]:
        """Its config.json; raises ``UserError`` where the hub does not give it, ``ValueError`` where it is none."""
        return _read(str(self.folder / CONFIG) if self.folder else self._hub_file(CONFIG))

    def place(self) -> tuple[str, dict[str, Any]]:
        """What ``from_pretrained`` takes: a name, and where to look for it."""
        if self.folder:
            return str(self.folder), {"local_files_only": True}
        return self.model, {"revision": self.revision} if self.revision else {}

    def loaded(self, what: str, load: Callable[[], T]) -> T:
        """What ``load`` gives, without progress bars; whatever it raises becomes a ``UserError`` of one line."""
        try:
            with _quiet():
                return load()
        except UserError:
            raise
        except Exception as error:  # whatever transformers, the hub or a broken file raises
            if "weights_only" in str(error):  # torch advises to run the code in the file
                what = f"{what}: cannot load model {self.model!r}: its weights hold more than tensors"
                raise UserError(f"{what}, and nothing else is read; give .safetensors") from None
            why = _first(str(error)) or type(error).__name__
            raise UserError(f"{what}: cannot load model {self.model!r}: {why}") from error

    def _hub_file(self, name: str) -> str:
        if find_spec("huggingface_hub") is None:
            raise MissingExtraError(f"model {self.model!r} needs huggingface_hub: pip install 'pairsieve[caption]'")
        path, why = _fetched(self.model, self.revision, name, int(monotonic() // HUB_SECONDS))
        if path is None:
            advice = "check the name, go online, or give a local directory"
            raise UserError(f"model: cannot fetch {name} of {self.model!r}: {why}; {advice}")
        return path


def _first(text: str) -> str:
    """What an error says first: its first line, with the next where it only announces it."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    told = " ".join(lines[:2]) if lines and (lines[0].endswith(":") or lines[0].endswith(" of")) else "".join(lines[:1])
    return " ".join(told.split())[:300].rstrip(": ")


def _read(file: str) -> Mapping[str, Any]:
    path = Path(file)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"model: {path} is larger than any configuration")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"model: {path} is not JSON: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise ValueError(f"model: {path} has no 'model_type'; give a model in transformers' format")
    return found


@lru_cache(maxsize=32)
def _fetched(repository: str, revision: str | None, name: str, when: int) -> tuple[str | None, str]:
    """The file, or why there is none: a plan asks several times, and the hub's client tries for most of a minute."""
    from huggingface_hub import hf_hub_download

    try:
        return str(hf_hub_download(repository, name, revision=revision)), ""
    except Exception as error:  # the hub raises its own errors, those of requests, and of the disk
        return None, (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(": .")


class _quiet:
    """No progress bars and advice of transformers while a model loads; its own settings come back."""

    def __enter__(self) -> None:
        logging: Any = import_module("transformers.utils.logging")  # half of it has no types
        self._logging, self._level, self._bars = logging, logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self._logging.set_verbosity(self._level)
        if self._bars:
            self._logging.enable_progress_bar()
