"""Which captioner a setting means, of what kind it is, and how that kind writes captions unless told otherwise.

The kinds: BLIP and BLIP-2 in transformers' format, CoCa as open_clip names it, and chat models (vision-language models
with a chat template, as LLaVA or Qwen-VL).  Defaults are the published ones of each kind; see ``DEFAULTS``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pairsieve.filters._clip_source import CONFIG as OPEN_CLIP_CONFIG
from pairsieve.filters._clip_source import ClipSource
from pairsieve.filters._transformers_source import TransformersSource

Kind = Literal["blip", "blip-2", "coca", "chat"]
DecodingName = Literal["nucleus", "greedy", "beam"]


@dataclass(frozen=True)
class Defaults:
    """How a kind of model writes captions: lengths in tokens as the kind counts them (``prompt_counts``)."""

    decoding: DecodingName
    prompt: str
    max_length: int
    min_length: int
    prompt_counts: bool = False
    repetition_penalty: float = 1.0
    beams: int = 5


DEFAULTS: Mapping[Kind, Defaults] = {
    # CapFilt: nucleus, p .9; its code fixes the penalty at 1.1.  The lengths are the demo's and SIEVE's: the paper has
    # none, the code's own defaults are 30 and 10.  Both count [DEC] and the prompt.
    "blip": Defaults("nucleus", "a picture of ", 20, 5, True, 1.1, 3),
    "blip-2": Defaults("beam", "a photo of", 30, 1),  # LAVIS; new tokens only
    # open_clip's lengths, which count the start and the end; p .9 as MobileCLIP-DR (open_clip's own is .1)
    "coca": Defaults("nucleus", "", 30, 5, True, beams=6),
    "chat": Defaults(  # Recap-DataComp-1B
        "greedy",
        "Please generate a detailed caption of this image. Please be as descriptive as possible.",
        128,
        0,
    ),
}
_NOT_CAPTIONERS = ("ForImageTextRetrieval", "ForQuestionAnswering")
_OTHER_PROMPTS = ("instructblip", "instructblipvideo", "git", "pix2struct", "vision-encoder-decoder", "kosmos-2")
"""Known to transformers' auto class, but neither chat models nor of a kind with a path of its own here."""


class CaptionSource(TransformersSource):
    """A captioner by name."""

    pretrained: str | None = Field(None, description="open_clip's pretrained tag, or a weights file")

    @property
    def clip(self) -> ClipSource | None:
        """The model as open_clip names it, where it is one of open_clip's."""
        in_folder = self.folder is not None and (self.folder / OPEN_CLIP_CONFIG).is_file()
        is_name = self.folder is None and not self.is_hub_id
        is_ours = in_folder or is_name or self.model.startswith("hf-hub:") or self.pretrained is not None
        return ClipSource(model=self.model, pretrained=self.pretrained) if is_ours else None

    def check(self) -> None:
        clip = self.clip
        if clip is None:
            super().check()
        elif self.revision:
            raise ValueError("'revision' goes with org/name of a model in transformers' format")
        elif self.folder is None and "/" in self.model and not clip.is_on_hub and not self.pretrained:
            raise ValueError(f"model: there is no directory {self.model!r}")
        else:
            clip.check()
        _ = self.kind

    def files(self) -> tuple[str, ...]:
        return self.clip.files() if self.clip else super().files()

    def modules(self) -> tuple[str, ...]:
        """Packages that it imports."""
        return self.clip.modules() if self.clip else ("open_clip", "torch", "transformers")

    @property
    def kind(self) -> Kind:
        """From the configuration; raises ``ValueError`` for what writes no captions, and as ``config``."""
        if self.clip is not None:
            if "multimodal_cfg" not in self.clip.config():
                raise ValueError(f"model: {self.model!r} is no CoCa model: it has no decoder that writes captions")
            return "coca"
        return _kind(self.model, self.config())


def _kind(model: str, config: Mapping[str, Any]) -> Kind:
    name, heads = config["model_type"], config.get("architectures") or [""]
    head = str(heads[0]) if isinstance(heads, list) else ""
    if head.endswith(_NOT_CAPTIONERS):
        raise ValueError(f"model: {Path(model).name!r} is {head}, which writes no captions; give a captioner")
    if name == "blip":
        return "blip"
    if name == "blip-2":
        text = config.get("text_config") or {}
        if text.get("model_type") in ("t5", "mt5"):
            raise ValueError(f"model: {Path(model).name!r} writes with T5; only BLIP-2 with a decoder (OPT) is read")
        return "blip-2"
    if name in _OTHER_PROMPTS or not (
        {"vision_config", "vision_cfg", "image_token_id", "image_token_index"} & set(config)
    ):
        raise ValueError(
            f"model: {Path(model).name!r} is of type {name!r}; captions come from blip, blip-2, CoCa of open_clip, "
            "and vision-language models with a chat template"
        )
    return "chat"
