"""The settings that say which CLIP model a filter uses, how exactly it computes, and where.

One home for ``clip_score``, the zero-shot filter and the search over embeddings.  Loading takes seconds and as much
memory as the weights; everything before it reads a small JSON file.
"""

from typing import Literal

from pydantic import Field

from pairsieve.filters._clip import Clip
from pairsieve.filters._clip_source import ClipSource
from pairsieve.filters.base import Runtime, Settings
from pairsieve.schemas.errors import UserError


class ClipModel(Settings):
    """Settings of a filter that computes with a CLIP model; ``check_model`` belongs into its ``check``.

    ``precision: auto`` is float32 on a CPU and float16 on a GPU: scores of the two differ by about 0.003 standard
    deviations, so a run that moves between them mixes both.  Write ``fp32`` or ``fp16`` where that matters.
    Embeddings are normalised and multiplied in float32 always.
    """

    model: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="open_clip name, hf-hub:org/name, local directory, or 'pairsieve-demo'",
    )
    pretrained: str | None = Field(None, description="open_clip's pretrained tag, or a weights file")
    precision: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        "auto", description="of weights and activations; auto: fp32 on a CPU, fp16 on a GPU"
    )
    device: Runtime[Literal["auto", "cpu", "cuda"]] = Field("auto", description="auto: the GPU where there is one")

    @property
    def source(self) -> ClipSource:
        """The model that is meant; there must be one."""
        assert self.model is not None
        return ClipSource(model=self.model, pretrained=self.pretrained)

    def check_model(self) -> None:
        """Refuse a model that does not exist; raises ``ValueError`` or ``UserError`` with one line."""
        self.source.check()

    def model_files(self) -> tuple[str, ...]:
        """Local files of the model, for ``files``."""
        return self.source.files()

    def model_modules(self) -> tuple[str, ...]:
        """Packages that the model imports, for ``needs``."""
        return self.source.modules()

    def dimension(self) -> int:
        """Numbers of an embedding, from the model's configuration alone."""
        return self.source.dimension()

    def load(self, batch_size: int | None = None) -> Clip:
        """The loaded model; raises ``UserError`` with one line for whatever goes wrong."""
        return self.load_other(self.source, batch_size)

    def load_other(self, source: ClipSource, batch_size: int | None = None) -> Clip:
        """Another model with the same precision on the same device; raises as ``load``."""
        try:
            return Clip.load(source.name, source.pretrained, self.precision, self.device, batch_size)
        except UserError:
            raise
        except Exception as error:  # whatever open_clip, its hub or a broken weights file raises
            if "weights_only" in str(error):  # torch advises to run the code in the file
                what = f"cannot load model {source.model!r}: its weights hold more than tensors"
                raise UserError(f"{what}, and nothing else is read; give .safetensors") from None
            why = (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(": ")
            filter_name = type(self).__module__.rpartition(".")[2]
            raise UserError(f"{filter_name}: cannot load model {source.model!r}: {why}") from error
