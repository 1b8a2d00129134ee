"""The command ``pairsieve balance``."""

import re
from decimal import Decimal
from typing import Annotated

import typer

from pairsieve.pipelines.cli_options import JsonOption, run_arg
from pairsieve.pipelines.cli_output import emit
from pairsieve.schemas.errors import UserError


def balance(
    source: Annotated[str, run_arg("a run with metadata_balance, or counts: .json, .parquet", metavar="SOURCE")],
    t: Annotated[str | None, typer.Option("--t", help="what this t would keep; 20k is 20000")] = None,
    tail_share: Annotated[float | None, typer.Option(min=0, max=1, help="the t whose tail has this share")] = None,
    target_rows: Annotated[str | None, typer.Option(help="the t that keeps so many; 400M is 400000000")] = None,
    matched_rows: Annotated[str | None, typer.Option(help="with a file: pairs that match an entry")] = None,
    step: Annotated[str | None, typer.Option(help="which step, where a run has several")] = None,
    top: Annotated[int, typer.Option(min=0, help="most frequent entries to list")] = 20,
    out: Annotated[str | None, typer.Option(help="write entries with their probabilities here, as Parquet")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only tell; nothing is written")] = False,
    json_: JsonOption = False,
) -> None:
    """Show head and tail of a balance, and what another t would keep: from counts, in seconds."""
    from pairsieve.pipelines.balance import choose, read_counts, save
    from pairsieve.pipelines.balance_page import balance_page
    from pairsieve.pipelines.cli_documents import balance_document

    if out is not None and dry_run:
        raise UserError(f"--dry-run writes nothing; leave it or --out {out} out")
    counts = read_counts(source, step, _amount("--matched-rows", matched_rows))
    found = choose(counts, _amount("--t", t), tail_share, _amount("--target-rows", target_rows))
    if out is not None:
        save(out, counts, found)
    emit(json_, lambda: balance_document(counts, found, top, out), lambda: balance_page(counts, found, top))


def _amount(option: str, text: str | None) -> int | None:
    """A whole number of at least 1, as ``20000``, ``20_000``, ``20k``, ``1.6B``."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9][0-9_,]*(?:\.[0-9]+)?)([kKmMbBgG]?)", text)
    factor = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}[match[2].lower()] if match else 0
    value = Decimal(re.sub("[_,]", "", match[1])) * factor if match else Decimal(0)
    if value != int(value) or not 1 <= value <= 2**53:
        raise UserError(f"{option} {text}: give a whole number from 1, such as 20000, 20k or 1.6B")
    return int(value)
