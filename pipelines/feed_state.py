"""Where an epoch stands: what is left of it as plain numbers, so that any rank's state is loaded by any topology."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError

from pairsieve.pipelines.feed_plan import Piece, Pieces
from pairsieve.schemas.errors import UserError
from pairsieve.schemas.run import Manifest


class Identity(Manifest):
    """What the order of rows depends on: a state goes with this alone."""

    dataset: str
    seed: int
    window_bytes: int
    shuffle: bool
    weights: str | None


class State(Manifest):
    """A position: the epoch, and the pieces that are left of it; null where it has not begun.

    ``given`` and ``worker`` are of a state that a loader's worker saves: the batches it has given of the pieces.
    """

    version: int = Field(1, ge=1, le=1)
    identity: Identity
    epoch: int = Field(ge=0)
    pieces: list[tuple[int, int, int, int]] | None
    given: int = Field(0, ge=0)
    worker: tuple[int, int] | None = None

    @property
    def left(self) -> Pieces | None:
        """The pieces that are left."""
        return None if self.pieces is None else tuple(Piece(*piece) for piece in self.pieces)


def saved(
    identity: Identity,
    epoch: int,
    pieces: Sequence[Piece] | None,
    given: int = 0,
    worker: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """A state as plain dicts, lists and numbers, for JSON or ``torch.save``."""
    plain = None if pieces is None else [tuple(piece) for piece in pieces]
    return State(identity=identity, epoch=epoch, pieces=plain, given=given, worker=worker).model_dump(mode="json")


def loaded(state: Mapping[str, Any], identity: Identity) -> State:
    """A state that was saved; raises ``UserError`` for what is none, or one of another order of rows."""
    try:
        found = State.model_validate(dict(state))
    except (ValidationError, TypeError, ValueError):
        raise UserError("load_state_dict: this is no state of a PairDataset; give what its state_dict() gave") from None
    for name, value in identity.model_dump().items():
        other = getattr(found.identity, name)
        if other != value:
            raise UserError(
                f"load_state_dict: the state is of a dataset with {name} {other!r}, this one has {value!r}; "
                "make this one alike, or begin an epoch anew with set_epoch()"
            )
    return found


def check_pieces(pieces: Sequence[Piece], rows: int) -> None:
    """Raise ``UserError`` for pieces that are none of an epoch of so many rows."""
    is_one = all(
        0 <= one.start < one.stop <= rows and 0 <= one.first <= one.last <= one.stop - one.start for one in pieces
    )
    if not is_one or sum(one.rows for one in pieces) > rows:
        raise UserError(
            f"load_state_dict: the state's pieces are none of an epoch of {rows:,} rows; give what state_dict() gave"
        )
