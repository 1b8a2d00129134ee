"""Which CLIP model a setting means, and what its files say of it; nothing is loaded, torch is not imported.

A model is an open_clip architecture with a tag or file of weights, ``hf-hub:org/name``, a directory in open_clip's
format, or the demo's.  What the plan must know of it (embedding dimension, whether it is a sigmoid model, which
packages it needs) stands in its JSON configuration: in open_clip's package, in the directory, or on the hub, from
where that one file is fetched once.
"""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any

from pydantic import Field, model_validator

from pairsieve.filters._model_folders import DEMO, model_folder
from pairsieve.filters.base import Settings
from pairsieve.schemas.errors import MissingExtraError, UserError

HUB = "hf-hub:"
CONFIG = "open_clip_config.json"
MOST_BYTES = 1 << 20
"""A configuration is a few kilobytes."""
HUB_SECONDS = 300
"""So long the hub is not asked again."""

_WEIGHTS = (".safetensors", ".bin", ".pth")
_MODEL_FILES = (*_WEIGHTS, ".json", ".txt", ".model")
"""Weights, configuration and tokenizer of a model's directory."""


class ClipSource(Settings):
    """A model by name: what recipes say of it, and what follows from its configuration."""

    model: str = Field(
        min_length=1,
        max_length=4096,
        description="open_clip name, hf-hub:org/name, local directory, or 'pairsieve-demo'",
    )
    pretrained: str | None = Field(None, description="open_clip's pretrained tag, or a weights file")

    @model_validator(mode="after")
    def _one_place_of_weights(self) -> "ClipSource":
        if self.pretrained and (self.is_on_hub or self.folder):
            raise ValueError("'pretrained' goes with the name of an open_clip architecture as 'model'")
        return self

    @property
    def is_on_hub(self) -> bool:
        """Whether its files are on the Hugging Face hub."""
        return self.model.startswith(HUB)

    @property
    def folder(self) -> Path | None:
        """The local directory of the model, where it is one."""
        return model_folder(self.model, "demo-clip")

    @property
    def name(self) -> str:
        """What open_clip calls it."""
        return f"local-dir:{self.folder.resolve()}" if self.folder else self.model

    def check(self) -> None:
        """Refuse a model that does not exist, before anything runs; raises ``ValueError`` or ``UserError``."""
        if self.folder:
            _check_directory(self.folder)
        elif self.is_on_hub:
            self.config()
        else:
            _check_name(self.model, self.pretrained)

    def files(self) -> tuple[str, ...]:
        """Local files that decide what it computes."""
        if self.folder:
            return tuple(str(p) for p in sorted(self.folder.iterdir()) if p.is_file() and p.suffix in _MODEL_FILES)
        return (self.pretrained,) if self.pretrained and Path(self.pretrained).is_file() else ()

    def config(self) -> Mapping[str, Any]:
        """Its architecture, as in open_clip's ``model_configs``.

        ``{}`` where open_clip is not installed.  Raises ``UserError`` where the hub does not give it, ``ValueError``
        where it is none.
        """
        if self.is_on_hub:
            _check_hub(self.model)
            return _architecture(_hub_file(self.model, CONFIG))
        if self.folder:
            return _architecture(str(self.folder / CONFIG))
        known = _known()
        found = known.get(self.model.replace("/", "-"))
        config: dict[str, Any] = json.loads(found.read_bytes()) if found else {}
        return config

    def _config_or_none(self) -> Mapping[str, Any]:
        try:
            return self.config()
        except (OSError, ValueError, UserError):
            return {}

    def dimension(self) -> int:
        """Numbers of an embedding; raises as ``config``, and ``ValueError`` where the configuration does not say."""
        found = self.config().get("embed_dim")
        if not isinstance(found, int) or isinstance(found, bool) or not 0 < found <= 1 << 16:
            raise ValueError(f"model: the configuration of {self.model!r} has no embed_dim that makes sense: {found!r}")
        return found

    def is_sigmoid(self) -> bool:
        """Whether it was trained with the sigmoid loss, as SigLIP: its logits have a bias."""
        return self._config_or_none().get("init_logit_bias") is not None

    def modules(self) -> tuple[str, ...]:
        """Packages that it imports; those of every model where its configuration is broken, as ``check`` says."""
        config = self._config_or_none()
        parts = (config.get(part) for part in ("text_cfg", "vision_cfg"))
        text, vision = (part if isinstance(part, dict) else {} for part in parts)
        needs_hf = "hf_tokenizer_name" in text or "hf_model_name" in text
        return ("open_clip", "torch") + ("timm",) * ("timm_model_name" in vision) + ("transformers",) * needs_hf


def _architecture(file: str) -> Mapping[str, Any]:
    """The model's part of a configuration file; raises ``ValueError`` for what is none."""
    path = Path(file)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"model: {path} is larger than any configuration")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"model: {path} is not JSON: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("model_cfg"), dict):
        raise ValueError(f"model: {path} has no 'model_cfg'")
    architecture: dict[str, Any] = found["model_cfg"]
    return architecture


def _hub_file(model: str, name: str) -> str:
    """A file of a model on the hub, from the local cache where it is there; raises ``UserError``."""
    if find_spec("huggingface_hub") is None:
        raise MissingExtraError(f"model {model!r} needs huggingface_hub: pip install 'pairsieve[clip]'")
    path, why = _fetched(model.removeprefix(HUB), name, int(monotonic() // HUB_SECONDS))
    if path is None:
        raise UserError(
            f"model: cannot fetch {name} of {model!r}: {why}; check the name, go online, or give a local directory"
        )
    return path


@lru_cache(maxsize=32)
def _fetched(repository: str, name: str, when: int) -> tuple[str | None, str]:
    """The file, or why there is none: a plan asks several times, and the hub's client tries for most of a minute."""
    from huggingface_hub import hf_hub_download

    try:
        return str(hf_hub_download(repository, name)), ""
    except Exception as error:  # the hub raises its own errors, those of requests, and of the disk
        return None, (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(": .")


def _check_hub(model: str) -> None:
    parts = model.removeprefix(HUB).split("/")
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"model: {model!r} is not of the form hf-hub:org/name")


def _check_directory(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise ValueError(f"model: {folder} holds no {CONFIG}; give a directory in open_clip's format")
    _architecture(str(folder / CONFIG))
    if not any(p.suffix in _WEIGHTS for p in folder.iterdir()):
        raise ValueError(f"model: {folder} holds no weights ({', '.join(_WEIGHTS)})")


def _known() -> dict[str, Path]:
    """open_clip's architectures and their files, without importing it; none where it is not installed."""
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:  # ``require_extra`` says so
        return {}
    return {path.stem: path for path in sorted((Path(spec.origin).parent / "model_configs").glob("*.json"))}


def _check_name(model: str, pretrained: str | None) -> None:
    """Refuse what open_clip does not know.  Architectures are read from its files; only tags need its import."""
    known = [DEMO, *_known()]
    if len(known) == 1:
        return
    if model.replace("/", "-") not in known:
        near = get_close_matches(model, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "give an open_clip name, hf-hub:org/name, or a directory"
        raise ValueError(f"model: there is no architecture and no directory {model!r}; {hint}")
    if pretrained is None:
        raise ValueError(f"pretrained: give the weights of {model}, a tag or a file")
    if not Path(pretrained).is_file():
        _check_tag(model.replace("/", "-"), pretrained)


def _check_tag(model: str, tag: str) -> None:
    """Refuse an unknown tag, and one of another activation: open_clip loads it with no more than a warning."""
    import open_clip

    found = open_clip.get_pretrained_cfg(model, tag)
    if not found:
        tags = open_clip.list_pretrained_tags_by_model(model)
        near = get_close_matches(tag, tags, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(tags) or 'none'}"
        raise ValueError(f"pretrained: {model} has no tag and there is no file {tag!r}; {hint}")
    fitting = f"{model}-quickgelu"
    if found.get("quick_gelu") and not open_clip.get_model_config(model).get("quick_gelu") and fitting in _known():
        raise ValueError(f"model: {tag!r} was trained with QuickGELU, so its scores would be wrong; write {fitting}")
