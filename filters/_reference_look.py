"""Look at the files of evaluation sets before a run, so that what cannot be used is refused by name."""

from collections.abc import Mapping, Sequence

from pairsieve.filters._reference_files import widths_of, worth_a_look
from pairsieve.filters._reference_hashes import Kind
from pairsieve.filters._reference_ngrams import check_captions
from pairsieve.schemas.errors import UserError

Sets = Mapping[str, Sequence[str]]


def look(by: str, sets: Sets, key: str | None, kind: Kind, widths: dict[str, int]) -> None:
    """Refuse files that cannot be compared, as far as a look tells; raises ``ValueError`` with set and file.

    ``by`` is the measure; ``kind`` is that of hashes; ``widths`` are those of embeddings seen so far, by what has them.
    """
    for name, files in (worth_a_look(sets) if by == "embeddings" else sets).items():
        try:
            if by == "embeddings":
                _one_width(files, key, widths)
            elif by == "captions":
                for file in files:
                    check_captions(file, key)
            else:
                _hashes(files, key, kind)
        except (UserError, ValueError) as error:
            raise ValueError(f"references: {name}: {error}") from None


def _one_width(files: Sequence[str], key: str | None, widths: dict[str, int]) -> None:
    for file, found in widths_of(files, key):
        what, width = next(iter(widths.items()), (file, found))
        if width != found:
            text = f"embeddings of width {found}, and {what} has width {width}"
            raise ValueError(f"{file} holds {text}; give one model's")
        widths[file] = found


def _hashes(files: Sequence[str], key: str | None, kind: Kind) -> None:
    from pairsieve.filters._reference_pictures import check_hashes  # with decoders, which take 0.15 s to import

    for file in files:
        check_hashes(file, key, kind)
