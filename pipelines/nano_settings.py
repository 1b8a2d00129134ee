"""What is fixed in a nano track: how much there is of everything, and how every model is trained."""

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

METRICS = ("shape", "colour", "count", "background", "composition", "held_out", "retrieval", "probe")
"""What a model is asked, in the order of tables; ``average`` is their plain mean."""


class Settings(BaseModel):
    """Immutable, and nothing unknown in them."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Size(Settings):
    """How large a nano track is.  ``targets``: pictures that image_based compares with."""

    pairs: PositiveInt = 24_000
    targets: PositiveInt = 1000
    clusters: PositiveInt = 400
    seen: PositiveInt = 1500
    held_out: PositiveInt = 600
    probe: PositiveInt = 1500
    retrieval: PositiveInt = 500


class Training(Settings):
    """What all models of a table have in common."""

    samples: PositiveInt = 49_152
    batch_size: PositiveInt = 256
    image_size: PositiveInt = 64
    embed_dim: PositiveInt = 48
    vision_width: PositiveInt = 8
    text_width: PositiveInt = 48
    text_layers: PositiveInt = 2
    learning_rate: PositiveFloat = 3e-3
    weight_decay: PositiveFloat = 0.02
    warmup: PositiveInt = 25
    greatest_scale: PositiveFloat = 100.0
