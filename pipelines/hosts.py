"""What became of a run's URLs, by reason and by host: counts, requests, bytes, seconds.

Reasons are counted over the scores; hosts and times come from the facts that workers noted beside them
(``facts_<step>``), which also hold what was asked for again.  Two queries over small Parquet files.
"""

from dataclasses import dataclass
from typing import Any

from rich.table import Column, Table

from pairsieve.pipelines.catalog import query
from pairsieve.pipelines.sql import quote
from pairsieve.schemas.errors import QueryError, UserError

ORDERS = ("urls", "failed", "bytes", "seconds")

_REASONS = """
    SELECT s.download_code AS reason, count(*) AS urls, coalesce(any_value(f.seconds), 0) AS seconds
    FROM {scores} s LEFT JOIN (SELECT code, sum(seconds) / sum(urls) AS seconds FROM {facts} GROUP BY code) f
    ON s.download_code = f.code GROUP BY ALL ORDER BY urls DESC, reason
"""
_HOSTS = """
    SELECT host, sum(urls)::BIGINT AS urls, coalesce(sum(urls) FILTER (code <> 'success'), 0)::BIGINT AS failed,
           arg_max(code, urls) FILTER (code <> 'success') AS reason, sum(requests)::BIGINT AS requests,
           sum(bytes)::BIGINT AS bytes, sum(seconds) AS seconds
    FROM {facts} WHERE host <> '' GROUP BY host ORDER BY {by} DESC, host LIMIT $top
"""


@dataclass(frozen=True)
class Report:
    """Rows of both tables: ``reasons`` with mean seconds a URL, ``hosts`` with sums."""

    step: str
    reasons: list[dict[str, Any]]
    hosts: list[dict[str, Any]]


def report(run_dir: str, step: str = "download", top: int = 20, by: str = "urls") -> Report:
    """Read a finished run, hosts by one of ``ORDERS``; raises ``UserError`` where the step noted nothing."""
    if by not in ORDERS:
        raise UserError(f"--by {by}: there are {', '.join(ORDERS)}")
    names = {"scores": quote(f"scores_{step}"), "facts": quote(f"facts_{step}"), "by": quote(by)}
    try:
        reasons = query(run_dir, _REASONS.format(**names)).to_pylist()
        hosts = query(run_dir, _HOSTS.format(**names), {"top": top}).to_pylist()
    except QueryError:
        raise UserError(
            f"{run_dir}: no step {step!r} has fetched anything here; --step names a download step"
        ) from None
    return Report(step, reasons, hosts)


def page(found: Report) -> list[Table]:
    """Both tables, for people."""
    reasons = Table("reason", *_right("URLs", "share", "seconds a URL"), title=f"{found.step}: reasons")
    total = sum(row["urls"] for row in found.reasons)
    for row in found.reasons:
        share = f"{row['urls'] / total:.1%}"
        reasons.add_row(str(row["reason"]), f"{row['urls']:,}", share, f"{row['seconds']:.2f}")
    columns = _right("URLs", "failed", "requests", "MB", "seconds a URL", "MB/s")
    hosts = Table("host", *columns, "most failures", title=f"{found.step}: hosts")
    for row in found.hosts:
        seconds, megabytes = max(row["seconds"], 1e-9), row["bytes"] / 1e6
        hosts.add_row(
            row["host"],
            f"{row['urls']:,}",
            f"{row['failed'] / row['urls']:.1%}",
            f"{row['requests']:,}",
            f"{megabytes:,.1f}",
            f"{row['seconds'] / row['urls']:.2f}",
            f"{megabytes / seconds:.2f}",
            row["reason"] or "",
        )
    return [reasons, hosts]


def _right(*names: str) -> list[Column]:
    return [Column(name, justify="right") for name in names]
