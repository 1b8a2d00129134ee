"""Captions of images by a captioner: BLIP, BLIP-2, CoCa, a chat model or another, here or behind a server.

The model is the cost: for BLIP-base at 384 pixels 127 GFLOP an image and 3 a caption of ten tokens.  An image passes
the vision tower once, its prompt and its cross-attention's keys are held once for all its captions, and images that are
done make room for the next: 10 captions take a tenth of the CPU of ten calls of ``generate``.  A caption depends on
the image, its uid and the settings alone: not on the batch, the worker, the order, or on when a run was killed.
"""

from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from pydantic import Field, NonNegativeInt, PositiveInt, PrivateAttr, model_validator

from pairsieve.filters import _captioner, _chat_columns
from pairsieve.filters._caption_flow import Flow, Part
from pairsieve.filters._caption_other import OtherFlow
from pairsieve.filters._caption_server import ServerFlow
from pairsieve.filters._caption_source import DEFAULTS, CaptionSource, DecodingName, Kind
from pairsieve.filters._chat import ChatServer
from pairsieve.filters._chat_prompts import Prompt
from pairsieve.filters._clip_flow import decoders
from pairsieve.filters._decode import Decoding
from pairsieve.filters._shared import Shared
from pairsieve.filters._text_lists import TEXTS
from pairsieve.filters.base import Filter, Resources, Runtime, Threshold
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    from pairsieve.filters._generating import Generating

_OF_SERVERS = frozenset(("server", "count", "prompt", "seed", "required"))
"""Settings that go with a server."""

CPU_ROWS, CPU_SLOTS, CPU_CHATS = 64, 16, 4
"""Captions, and images, that are written at once on a CPU: more rows would be a tenth faster at most."""
GPU_ROWS, GPU_SLOTS, GPU_CHATS = 640, 256, 32
"""On a GPU, where a step costs the same for few and for many; a chat model's image takes 0.1 to 0.5 GB."""

MOST_TOKENS = 16_384
"""Of all captions of an image: their keys are 1.2 GB for BLIP-base."""


class Caption(Filter):
    """Write captions of each image with a captioner: ``count`` of them, drawn, greedily, or by beam search.

    ``model`` is a directory or ``org/name`` of the hub in transformers' format (BLIP, BLIP-2, any
    vision-language model with a chat template, GIT, InstructBLIP, Kosmos-2, Pix2Struct, or an encoder and a decoder as
    ViT-GPT2), or CoCa as open_clip names it.  What is not set is as published for the kind of model.  Weights are read
    from safetensors only, and no code of a repository is run.  GIT and those after it, and BLIP-2 with T5, write by
    their own ``generate``, one image at a time, in the caller's thread: slower, and ``batch_size`` does nothing there.

    Columns: ``caption``, a list of ``count`` strings, in which a caption that came out empty is null (repeats stay);
    null where an image gave none.  ``caption_error`` then says why: ``no_image``, ``broken_image``,
    ``too_many_pixels``, ``no_caption`` (the model wrote nothing).  Captions are one line: space is collapsed, control
    characters are left out.  With ``required: true`` a pair without captions is dropped, for that reason.

    With ``server`` in place of ``model`` a large model behind OpenAI's chat protocol (vLLM, SGLang, llama.cpp, TGI,
    OpenAI) is asked; ``prompt`` may then hold columns of texts, as ``{text}``.  Columns beside: ``caption_failed`` (how
    many captions are missing because the server failed), ``caption_prompt_tokens``, ``caption_completion_tokens``; and
    errors ``no_text`` (a column of the prompt is empty), ``server_timeout``, ``server_busy`` (429, 503),
    ``server_error`` (other 5xx, connection broken), ``server_refused`` (4xx), ``server_garbage``.

    Draws are keyed by (seed, uid, number of the caption, token), so captions do not depend on batches, workers or
    order.  On a GPU, and with ``precision: auto`` (float16 there, bfloat16 for chat models and those of ``generate``),
    they are not those of a CPU; another ``batch_size`` may change the last bits there, and so now and then a word.
    """

    reads = ("uid", "image")
    writes = {"caption": TEXTS, "caption_error": pa.string()}
    batch_rows = 256
    extra = "caption"
    loads_model = True

    model: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="directory or org/name in transformers' format, a CoCa as open_clip names it, or 'pairsieve-demo'",
    )
    server: ChatServer | None = Field(None, description="a chat server that is asked instead of a model loaded here")
    pretrained: str | None = Field(None, description="of an open_clip name: its tag, or a weights file")
    revision: str | None = Field(None, min_length=1, max_length=255, description="branch, tag or commit on the hub")
    count: PositiveInt = Field(1, le=1000, description="captions an image")
    decoding: DecodingName | None = Field(
        None, description="nucleus, greedy or beam; null: beam for BLIP-2 with OPT, greedy for chat, else nucleus"
    )
    top_p: float = Field(0.9, gt=0, le=1, description="nucleus: the likeliest tokens that hold so much are drawn from")
    top_k: NonNegativeInt = Field(0, le=1_000_000, description="nucleus: from so many at most; 0: pure nucleus")
    temperature: float = Field(1.0, ge=0.01, le=100, description="nucleus: logits are divided by it")
    repetition_penalty: float | None = Field(None, ge=0.01, le=100, description="null: 1.1 for BLIP, else none (1.0)")
    beams: PositiveInt | None = Field(None, le=64, description="beam: how many; null: 3 for BLIP, 5 for BLIP-2, else 5")
    max_length: PositiveInt | None = Field(
        None, le=4096, description="tokens at most, as the kind counts; null: 20 BLIP, 128 chat, 30 all else"
    )
    min_length: NonNegativeInt | None = Field(
        None, le=4096, description="tokens before a caption may end; null: 5 BLIP and CoCa, 0 chat, 1 all else"
    )
    prompt: str | None = Field(None, max_length=4096, description="what captions begin with, or a chat model is asked")
    seed: NonNegativeInt = Field(0, lt=2**63, description="of the draws; another seed gives other captions")
    precision: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        "auto",
        description="of weights; auto: fp32 on a CPU and for CoCa, else fp16, for chat and others bf16",
    )
    device: Runtime[Literal["auto", "cpu", "cuda"]] = Field("auto", description="auto: the GPU where there is one")
    batch_size: PositiveInt | None = Field(
        None, le=4096, description="images that are written at once; null: 64 captions' on a CPU, 640 on a GPU"
    )
    threads: Runtime[PositiveInt | None] = Field(
        None, description="threads that decode; null: a GPU's share of the cores; on a CPU, none beside the model's"
    )
    per_gpu: Runtime[PositiveInt] = Field(1, description="workers that share a GPU, each with its own model", le=16)
    required: Threshold[bool] = Field(False, description="drop pairs that got no caption")

    _shared: Shared | None = PrivateAttr(None)
    _flow: Flow | OtherFlow | None = PrivateAttr(None)
    _asking: ServerFlow | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _one_source(self) -> "Caption":
        if (self.model is None) == (self.server is None):
            raise ValueError("give either 'model' or 'server'")
        if self.server is None:
            return self
        others = sorted(self.model_fields_set - _OF_SERVERS)
        if others:
            raise ValueError(f"{others[0]!r} is of a 'model' loaded here; a server is told by the settings of 'server'")
        _ = self._asked
        return self

    @model_validator(mode="after")
    def _drawn(self) -> "Caption":
        if self.server is not None:
            return self
        _ = self.source.clip  # refuses what does not go together
        if self.decoding not in (None, "nucleus"):
            names = [name for name in ("top_p", "top_k", "temperature") if name in self.model_fields_set]
            if names:
                raise ValueError(f"{names[0]!r} goes with 'decoding: nucleus', not with {self.decoding!r}")
        if self.decoding not in (None, "beam") and self.beams is not None:
            raise ValueError(f"'beams' goes with 'decoding: beam', not with {self.decoding!r}")
        return self

    @property
    def source(self) -> CaptionSource:
        """The model that is meant; there must be one."""
        assert self.model is not None
        return CaptionSource(model=self.model, pretrained=self.pretrained, revision=self.revision)

    @property
    def _asked(self) -> Prompt:
        """What a server is asked; raises ``ValueError`` for a template that is none."""
        return Prompt(prompt=self.prompt or DEFAULTS["chat"].prompt)

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        named = [hole.column for hole in self._asked.holes] if self.server else []
        return tuple(dict.fromkeys([*self.reads, *named]))

    def outputs(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        return _chat_columns.types("caption") if self.server else dict(self.writes)

    def needs(self) -> tuple[str, ...]:
        return () if self.server else self.source.modules()

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        if self.server:
            self._asked.check(available)
            return
        self.source.check()
        self.source.prompt(self.prompt)
        self._decoding(self.source.kind, None)

    def files(self) -> tuple[str, ...]:
        return () if self.server else self.source.files()

    def resources(self) -> Resources:
        if self.server:
            return Resources()
        gpus = 0.0 if self.device == "cpu" else 1 / self.per_gpu
        return Resources(cpus=self.threads or 1, gpus=gpus, gpu_optional=self.device == "auto")

    def imports(self) -> tuple[str, ...]:
        return self.needs()

    def share(self, shared: Shared) -> None:
        self._shared = shared

    def open(self) -> None:
        if self.server:
            self._asking = ServerFlow(self.server, self._asked, self.count, self.seed)
        else:
            self._flow = self._opened()

    def _opened(self) -> Flow | OtherFlow:
        """What writes the captions here."""
        kind, prompt = self.source.kind, self.source.prompt(self.prompt)
        if kind == "other":
            other = _captioner.load_other(self.source, prompt, self.precision, self.device, "caption")
            return OtherFlow(other, self._with_room(kind, other), self.seed)
        captioner = _captioner.load(self.source, prompt, self.precision, self.device, "caption")
        decoding = self._with_room(kind, captioner)
        device = captioner.device.type
        threads = decoders(self.threads, device, self.per_gpu)
        return Flow(captioner, decoding, self.seed, self._slots(kind, device, decoding.rows), threads, self._shared)

    def _with_room(self, kind: Kind, model: "_captioner.Captioner | Generating") -> Decoding:
        """How the model writes; raises ``UserError`` where its places do not hold that."""
        decoding = self._decoding(kind, model.prompt_tokens)
        if model.prompt_tokens + decoding.most > model.most_tokens:
            room = model.most_tokens - model.prompt_tokens
            raise UserError(f"caption: max_length: the model has room for {max(0, room)} tokens after its prompt only")
        return decoding

    def _slots(self, kind: Kind, device: str, rows: int) -> int:
        """Images that are written at once."""
        if self.batch_size:
            return self.batch_size
        on_cpu, is_chat = device != "cuda", kind == "chat"
        most = (CPU_CHATS if is_chat else CPU_SLOTS) if on_cpu else (GPU_CHATS if is_chat else GPU_SLOTS)
        return max(1, min(most, (CPU_ROWS if on_cpu else GPU_ROWS) // rows))

    def _decoding(self, kind: Kind, prompt_tokens: int | None) -> Decoding:
        """How captions are written, with lengths in new tokens; raises ``ValueError`` for what does not go together.

        Without ``prompt_tokens`` lengths are only compared with each other.
        """
        usual = DEFAULTS[kind]
        name = self.decoding or usual.decoding
        beams = self.beams or usual.beams
        if name != "beam" and self.beams is not None:
            raise ValueError(f"'beams' goes with 'decoding: beam'; this kind of model's is {name!r}")
        if name == "greedy" and self.count > 1:
            raise ValueError("count: greedy decoding writes one caption; write 'decoding: nucleus' for several")
        if name == "beam" and self.count > beams:
            raise ValueError(f"count: {self.count} captions need as many beams, not {beams}; or 'decoding: nucleus'")
        if name != "nucleus" and (wrong := {"top_p", "top_k", "temperature"} & self.model_fields_set):
            raise ValueError(f"{min(wrong)!r} goes with 'decoding: nucleus'; this kind of model's is {name!r}")
        most = usual.max_length if self.max_length is None else self.max_length
        least = min(usual.min_length, most) if self.min_length is None else self.min_length
        if least > most:
            raise ValueError(f"min_length ({least}) is above max_length ({most})")
        if (beams if name == "beam" else self.count) * most > MOST_TOKENS:
            raise ValueError(f"max_length: {self.count} captions of {most} tokens are more than {MOST_TOKENS} an image")
        if prompt_tokens is not None:
            most, least = self._after_prompt(kind, prompt_tokens, most, least)
        penalty = usual.repetition_penalty if self.repetition_penalty is None else self.repetition_penalty
        return Decoding(name, self.count, most, least, self.top_p, self.top_k, self.temperature, penalty, beams=beams)

    def _after_prompt(self, kind: Kind, prompt_tokens: int, most: int, least: int) -> tuple[int, int]:
        """Lengths in new tokens; raises ``UserError`` where the prompt leaves none."""
        if not DEFAULTS[kind].prompt_counts:
            return most, least
        end = 1 if kind == "coca" else 0  # open_clip keeps the last place for the end
        if most - end <= prompt_tokens:
            raise UserError(f"caption: max_length: {most} leaves no token after a prompt of {prompt_tokens} tokens")
        return most - end - prompt_tokens, max(0, least - prompt_tokens)

    def close(self) -> None:
        for one in (self._flow, self._asking):
            if one:
                one.close()
        self._flow, self._asking = None, None

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        return next(self.score_all(iter([pairs])))

    def score_all(self, batches: Iterator[pa.RecordBatch]) -> Generator[dict[str, pa.Array], None, None]:
        """``score`` of each part, in order; later parts are taken and decoded while earlier ones are computed."""
        if self._asking:
            yield from self._asking.columns(batches)
            return
        assert self._flow is not None
        for part in self._flow.stream(batches):
            yield _columns(part)

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        if not self.required:
            return pa.nulls(pairs.num_rows, pa.string())
        return pairs["caption_error"]


def _columns(part: Part) -> dict[str, pa.Array]:
    return {"caption": pa.array(part.captions, TEXTS), "caption_error": pa.array(part.errors, pa.string())}
