"""A recipe from five answers: commented YAML that a person goes on with.

The thresholds are those of DataComp's basic filter and its CLIP score baseline (arXiv 2304.14108) and of MetaCLIP
(arXiv 2309.16671); for captioning the images are larger, the captions longer and the cut is looser.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pairsieve.pipelines.init_look import Found

Purpose = Literal["clip", "captioning"]
Strict = Literal["basic", "clip", "balance"]
Write = Literal["dataset", "subset", "both"]
PURPOSES = {"clip": "CLIP and other contrastive training", "captioning": "captioning or vision-language models"}
STRICTNESS = {
    "basic": "sizes, caption lengths, duplicates",
    "clip": "and the best 30 % by CLIP score (50 % for captioning)",
    "balance": "and MetaCLIP's balance over a list of entries",
}
WRITES = {"dataset": "training shards (Parquet)", "subset": "DataComp's .npy of the kept uids", "both": "both"}
ANY = "any"
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""YAML takes them for something else than text: Norwegian's code is one."""


@dataclass(frozen=True)
class Answers:
    """The five answers, and which CLIP model and which list of entries are meant where they are needed."""

    pool: Found
    purpose: Purpose = "clip"
    languages: tuple[str, ...] = ("en",)
    strict: Strict = "basic"
    write: Write = "dataset"
    metadata: str = "metadata.parquet"
    clip_model: str = "ViT-B-32"
    clip_pretrained: str | None = "laion2b_s34b_b79k"

    @property
    def downloads(self) -> bool:
        """Whether images are to be fetched: lists hold none, and a subset of DataComp needs none."""
        return self.pool.kind == "urls" or (self.pool.kind == "datacomp" and self.write != "subset")

    @property
    def extras(self) -> list[str]:
        """Extras of pairsieve that the recipe needs."""
        needs_model = self.strict == "clip" and self.pool.kind != "datacomp"
        wanted = {
            "language": bool(self.languages) and self.pool.has_captions,
            "clip": needs_model,
            "metaclip": self.strict == "balance",
        }
        return [extra for extra, is_needed in wanted.items() if is_needed]


def recipe_text(answers: Answers) -> str:
    """The YAML; every step says what it is there for."""
    about = f"For {PURPOSES[answers.purpose]}, from {answers.pool}".replace("\n", " ")
    lines = [
        f"# {about}.",
        "# Every setting: pairsieve filters NAME.  A threshold may change at any time: what is measured is kept.",
        "",
        "pool:",
        f"  {answers.pool.kind}: {_flow(answers.pool.settings)}",
        "",
        "filters:",
        *(f"  - {step}{f'    # {why}' if why else ''}" for step, why in _steps(answers)),
        "",
        "output:",
        *_outputs(answers),
        "seed: 0    # of the shuffle",
    ]
    return "\n".join(lines) + "\n"


def _steps(answers: Answers) -> Iterator[tuple[str, str]]:
    """Cheap ones first: what they drop is never downloaded and never shown to a model."""
    is_clip = answers.purpose == "clip"
    words = {"least": 3, "most": 64} if is_clip else {"least": 5, "most": 256}
    if answers.pool.has_captions:
        yield _step("caption_words", words), "boilerplate and walls of text go"
    if answers.languages and answers.pool.has_captions:
        yield _step("language", {"keep": list(answers.languages)}), "by fastText"
    if answers.pool.kind == "urls":
        yield _step("exact_duplicates", {"as": "same_row", "by": [["url", "text"]]}), "rows listed twice"
    if answers.strict == "balance":
        yield from _balance(answers)
    if answers.downloads:
        size = {"image_size": 256} if is_clip else {"image_size": 512, "resize_mode": "keep_ratio"}
        yield _step("download", size), "opt-outs (X-Robots-Tag) are honoured; pairsieve filters download"
    yield _step("image_shape", {"shortest": 200 if is_clip else 336, "aspect": 3}), "of the original picture"
    if answers.pool.kind != "datacomp" or answers.downloads:
        by = "sha256" if answers.downloads else "image"
        yield _step("exact_duplicates", {"as": "same_image", "by": by}), "the same file under another name"
    if answers.strict == "clip":
        yield _clip(answers), "the fraction that stays; min: 0.28 would be a fixed threshold"


def _balance(answers: Answers) -> Iterator[tuple[str, str]]:
    yield _step("metadata_match", {"metadata": answers.metadata}), "captions that hold an entry"
    balance = {"t": 20_000, "metadata": answers.metadata}
    yield _step("metadata_balance", balance), "frequent entries are thinned; pairsieve balance RUN tries other t"


def _clip(answers: Answers) -> str:
    top = 0.3 if answers.purpose == "clip" else 0.5
    if answers.pool.kind == "datacomp":
        return _step("clip_score", {"column": "clip_l14_similarity_score", "top": top, "of": "pool"})
    weights = {} if answers.clip_pretrained is None else {"pretrained": answers.clip_pretrained}
    return _step("clip_score", {"model": answers.clip_model, **weights, "top": top})


def _outputs(answers: Answers) -> Iterator[str]:
    if answers.write != "subset":
        yield "  dataset: {rows_per_file: 10000}    # dataset/*.parquet; pairsieve export writes tars and others"
    if answers.write != "dataset":
        yield "  subset: kept.npy    # kept uids, as DataComp's tools read them"


def _step(name: str, settings: dict[str, Any]) -> str:
    return f"{name}: {_flow(settings)}"


def _flow(value: Any) -> str:
    """A value as YAML on one line: JSON, with plain keys; ``${`` in a path is no variable."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_flow(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.casefold() not in _WORDS:
        return value
    text = json.dumps(value, ensure_ascii=False).replace("${", "$${")
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)  # YAML refuses them as they are
