"""Which captioner a setting means, of what kind it is, and how that kind writes captions unless told otherwise.

The kinds: BLIP and BLIP-2 in transformers' format, CoCa as open_clip names it, chat models (vision-language models
with a chat template, as LLaVA or Qwen-VL), and others of transformers, which write by their own ``generate`` (GIT,
ViT-GPT2, InstructBLIP, ...).  Defaults are the published ones of each kind; see ``DEFAULTS``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pairsieve.filters._clip_source import CONFIG as OPEN_CLIP_CONFIG
from pairsieve.filters._clip_source import ClipSource
from pairsieve.filters._transformers_source import TransformersSource

Kind = Literal["blip", "blip-2", "coca", "chat", "other"]
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
    "other": Defaults("nucleus", "", 30, 1),  # BLIP-2's lengths and CapFilt's p; prompts in PROMPTS
}
PROMPTS: Mapping[str, str] = {
    "blip-2": "a photo of",  # LAVIS, of BLIP-2 with T5
    "instructblip": "A short image description:",  # InstructBLIP's, of NoCaps and Flickr30k
    "kosmos-2": "An image of",  # Kosmos-2's
    "git": "",
    "pix2struct": "",
    "vision-encoder-decoder": "",
}
"""By type: what models of kind ``other`` are given before a caption; the types are all that are of that kind."""
_PROMPTLESS = ("vision-encoder-decoder",)
_NOT_CAPTIONERS = ("ForImageTextRetrieval", "ForQuestionAnswering")
_OF_VIDEOS = ("instructblipvideo",)


class CaptionSource(TransformersSource):
    """A captioner by name."""

    demo = "demo-blip"

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

    def prompt(self, chosen: str | None) -> str:
        """What captions begin with, or a model is asked; raises ``ValueError`` where the model takes none."""
        kind = self.kind
        if kind != "other":
            return DEFAULTS[kind].prompt if chosen is None else chosen
        name = self.config()["model_type"]
        if chosen and name in _PROMPTLESS:
            raise ValueError(f"prompt: {Path(self.model).name!r} is of type {name!r}, which takes none; leave it out")
        return PROMPTS[name] if chosen is None else chosen


def _kind(model: str, config: Mapping[str, Any]) -> Kind:
    name, heads = config["model_type"], config.get("architectures") or [""]
    head = str(heads[0]) if isinstance(heads, list) else ""
    if head.endswith(_NOT_CAPTIONERS):
        raise ValueError(f"model: {Path(model).name!r} is {head}, which writes no captions; give a captioner")
    if name == "blip":
        return "blip"
    if name == "blip-2":
        text = config.get("text_config") or {}
        is_t5 = isinstance(text, dict) and text.get("model_type") in ("t5", "mt5")
        return "other" if is_t5 else "blip-2"
    if name in PROMPTS:
        return "other"
    if name in _OF_VIDEOS or not ({"vision_config", "vision_cfg", "image_token_id", "image_token_index"} & set(config)):
        raise ValueError(
            f"model: {Path(model).name!r} is of type {name!r}; captions come from blip, blip-2, CoCa of open_clip, "
            f"{', '.join(sorted(set(PROMPTS) - {'blip-2'}))}, and vision-language models with a chat template"
        )
    return "chat"
