"""What a set of a given size costs: CPU- and GPU-hours, bytes, dollars, from constants that each say their source.

    python -m scripts.cost_model                                     # the tables of docs/cost.md
    python -m scripts.cost_model --pairs 128M --set gpu_dollars=1.8  # your size, your price
    python -m scripts.cost_model --write docs/cost.md                # put the tables into the page

Needs nothing but Python.  Waiting for hosts, failures and idle machines are not in it.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Basis = Literal["measured", "published", "computed", "assumed"]


@dataclass(frozen=True)
class Constant:
    """A number with its unit, what it rests on, and words of the file that has it."""

    value: float
    unit: str
    basis: Basis
    source: str
    quote: str = ""


BENCHMARKS, DOWNLOAD = "BENCHMARKS.md", "docs/download.md"
CONSTANTS: Mapping[str, Constant] = {
    "top_us": Constant(0.39, "CPU-µs a pair", "measured", BENCHMARKS, "38,400,005 | 49.6 | 2,580,000"),
    "basic_us": Constant(2.6, "CPU-µs a pair", "measured", BENCHMARKS, "| 5.17 | 193,000 | 384,000 |"),
    "language_us": Constant(3.0, "CPU-µs a caption", "measured", BENCHMARKS, "joined to 50 characters | 3.0 |"),
    "match_us": Constant(1.2, "CPU-µs a caption of 104 bytes", "measured", BENCHMARKS, "17.1 | 827,045"),
    "balance_us": Constant(2.35, "CPU-µs a pair", "measured", BENCHMARKS, "| 2.35 (246 s) |"),
    "text_hash_us": Constant(18.8, "CPU-µs a caption", "measured", BENCHMARKS, "| 10,000,000 | 188 | 5,905 |"),
    "image_hash_us": Constant(432, "CPU-µs an image of 512 pixels", "measured", BENCHMARKS, "to hash and keys | 432 |"),
    "fetch_ms": Constant(2.9, "CPU-ms an image over http, resized", "measured", DOWNLOAD, "2.9 ms an image of 640×480"),
    "https_ms": Constant(0.7, "CPU-ms more over https", "measured", DOWNLOAD, "0.7 more over https"),
    "decode_us": Constant(
        1428, "CPU-µs an image of 512 pixels, for a model", "measured", BENCHMARKS, "512×512 | 4,144 | 1,428"
    ),
    "write_us": Constant(264, "CPU-µs an image written to shards", "measured", BENCHMARKS, "| 100 % | 118 | 264 |"),
    "b32_gflop": Constant(14.8, "GFLOP a pair, ViT-B/32", "computed", "open_clip's table of models"),
    "l14_gflop": Constant(175.3, "GFLOP a pair, ViT-L/14", "computed", "open_clip's table of models"),
    "capfilt_gflop": Constant(
        287, "GFLOP an image: BLIP-base at 384, a caption, two matches", "computed", "layer shapes"
    ),
    "https_share": Constant(0.62, "of the URLs", "published", DOWNLOAD, "62 % https"),
    "fetched_kb": Constant(100, "kB a body", "assumed", "a sample of LAION's; 62 to 80 kB were measured with"),
    "stored_kb": Constant(
        35, "kB a stored image of 512 pixels at most", "published", "DataComp: 450 GB of tars for 12.8 M"
    ),
    "alive": Constant(0.7, "of the URLs give an image", "assumed", "lists of 2022 gave 0.4 to 0.8 since"),
    "kept": Constant(0.3, "of the images stay", "assumed", "a top fraction of 30 %"),
    "gpu_tflops": Constant(
        120, "TFLOP/s that a GPU gives", "assumed", "15 % of an H100's peak; published runs gave 12 to 18"
    ),
    "cpu_dollars": Constant(0.043, "$ a vCPU-hour", "assumed", "list price of a cloud, November 2026"),
    "gpu_dollars": Constant(2.5, "$ a GPU-hour", "assumed", "H100 class, November 2026"),
    "tb_dollars": Constant(23, "$ a TB and month", "assumed", "object storage, November 2026"),
    "slack": Constant(1.5, "times the hours that work takes", "assumed", "failures, idle machines, work done twice"),
    "months": Constant(1, "months that images are stored", "assumed", "yours will differ"),
    "vcpus": Constant(256, "vCPUs that work at a time", "assumed", "16 machines of 16"),
    "gpus": Constant(8, "GPUs that work at a time", "assumed", "one machine of 8"),
}
SIZES = (12_800_000, 128_000_000, 1_280_000_000, 12_800_000_000)
"""DataComp's small to xlarge."""


@dataclass(frozen=True)
class Cost:
    """What one set needs."""

    cpu_hours: float = 0
    gpu_hours: float = 0
    fetched_tb: float = 0
    stored_tb: float = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Both together."""
        return Cost(
            self.cpu_hours + other.cpu_hours,
            self.gpu_hours + other.gpu_hours,
            self.fetched_tb + other.fetched_tb,
            self.stored_tb + other.stored_tb,
        )


Values = Mapping[str, float]


def metadata(pairs: float, c: Values) -> Cost:
    """A baseline of DataComp by the scores that its metadata brings: rules of captions and sizes, a top fraction."""
    return _cpu(pairs, c["basic_us"] + c["top_us"])


def scored(pairs: float, c: Values, gflop: str = "l14_gflop") -> Cost:
    """From URLs: fetch all, store what comes, drop near duplicates of both kinds, score, write what stays."""
    images = pairs * c["alive"]
    fetch_us = 1000 * (c["fetch_ms"] + c["https_share"] * c["https_ms"])
    work = (
        _cpu(pairs, fetch_us)
        + _cpu(images, c["text_hash_us"] + c["image_hash_us"] + c["decode_us"])
        + _cpu(images * c["kept"], c["write_us"])
    )
    bytes_of = Cost(fetched_tb=images * c["fetched_kb"] / 1e9, stored_tb=images * c["stored_kb"] / 1e9)
    return work + bytes_of + _gpu(images, c[gflop], c)


def scored_small(pairs: float, c: Values) -> Cost:
    """The same, scored by ViT-B/32."""
    return scored(pairs, c, "b32_gflop")


def metaclip(pairs: float, c: Values) -> Cost:
    """MetaCLIP: language, matching, balance over all; a quarter of what matches is fetched, nothing is scored."""
    fetched = pairs * MATCHED * BALANCED
    fetch_us = 1000 * (c["fetch_ms"] + c["https_share"] * c["https_ms"])
    images = fetched * c["alive"]
    work = _cpu(pairs, c["language_us"] + c["match_us"] + c["balance_us"]) + _cpu(fetched, fetch_us)
    return (
        work + _cpu(images, c["write_us"]) + Cost(0, 0, images * c["fetched_kb"] / 1e9, images * c["stored_kb"] / 1e9)
    )


def capfilt(pairs: float, c: Values) -> Cost:
    """From URLs, then BLIP writes a caption of each image and matches both texts."""
    images = pairs * c["alive"]
    return scored(pairs, c) + _cpu(images, c["decode_us"]) + _gpu(images, c["capfilt_gflop"], c)


MATCHED, BALANCED = 0.5, 0.25
"""Of MetaCLIP's English captions half match an entry, and t = 20,000 keeps a quarter of those (arXiv 2309.16671)."""

WAYS: Mapping[str, Callable[[float, Values], Cost]] = {
    "DataComp's rules over its metadata": metadata,
    "MetaCLIP from URLs": metaclip,
    "URLs, CLIP score by ViT-B/32": scored_small,
    "URLs, CLIP score by ViT-L/14": scored,
    "the same, and CapFilt by BLIP-base": capfilt,
}


def _cpu(rows: float, microseconds: float) -> Cost:
    return Cost(cpu_hours=rows * microseconds / 3.6e9)


def _gpu(rows: float, gflop: float, c: Values) -> Cost:
    return Cost(gpu_hours=rows * gflop / (c["gpu_tflops"] * 1000) / 3600)


def dollars(cost: Cost, c: Values) -> float:
    """Machines for the time they work, storage for its months; what is fetched is free on most clouds."""
    machines = cost.cpu_hours * c["cpu_dollars"] + cost.gpu_hours * c["gpu_dollars"]
    return machines * c["slack"] + cost.stored_tb * c["tb_dollars"] * c["months"]


def days(cost: Cost, c: Values) -> float:
    """Days on the assumed machines, CPUs and GPUs side by side."""
    return max(cost.cpu_hours / c["vcpus"], cost.gpu_hours / c["gpus"]) * c["slack"] / 24


def values(changes: Mapping[str, float] | None = None) -> dict[str, float]:
    """All constants by name, some of them changed; raises ``KeyError`` for a name that none has."""
    if unknown := set(changes or ()) - set(CONSTANTS):
        raise KeyError(f"no constant {sorted(unknown)[0]!r}; there are: {', '.join(CONSTANTS)}")
    return {name: constant.value for name, constant in CONSTANTS.items()} | dict(changes or {})


def cost_table(sizes: Sequence[float], c: Values) -> str:
    """A row for each way and size."""
    heads = ["way", "pairs", "CPU-hours", "GPU-hours", "fetched", "stored", "days", "$"]
    lines = [heads, ["---", *["---:"] * 7]]
    for way, work in WAYS.items():
        for place, pairs in enumerate(sizes):
            cost = work(pairs, c)
            cells = [_short(cost.cpu_hours), _short(cost.gpu_hours), _bytes(cost.fetched_tb), _bytes(cost.stored_tb)]
            lines.append(
                ["" if place else way, _amount(pairs), *cells, _short(days(cost, c)), _short(dollars(cost, c))]
            )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def constants_table() -> str:
    """Every constant with its basis."""
    lines = [["constant", "value", "unit", "basis", "from"], ["---", "---:", "---", "---", "---"]]
    lines += [[f"`{n}`", f"{c.value:g}", c.unit, c.basis, c.source] for n, c in CONSTANTS.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _short(value: float) -> str:
    """Two digits that count: 3,400, 34, 3.4, 0.34."""
    if value == 0:
        return ""
    if value >= 100:
        digits = len(str(int(value))) - 2
        return f"{round(value / 10**digits) * 10**digits:,}"
    return f"{value:.2g}" if value >= 0.01 else "under 0.01"


def _bytes(terabytes: float) -> str:
    return f"{_short(terabytes)} TB" if terabytes else ""


def _amount(pairs: float) -> str:
    return f"{pairs / 1e9:g} B" if pairs >= 1e9 else f"{pairs / 1e6:g} M"


def page_with_tables(text: str) -> str:
    """A page with the tables between their marks made anew."""
    for name, table in (("costs", cost_table(SIZES, values())), ("constants", constants_table())):
        before, rest = text.split(f"<!-- {name} -->\n", 1)
        after = rest.split(f"<!-- end of {name} -->", 1)[1]
        text = f"{before}<!-- {name} -->\n\n{table}\n\n<!-- end of {name} -->{after}"
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """The tables for one size, or for all, on standard output."""
    parser = argparse.ArgumentParser(description="What a set costs, from named constants.")
    parser.add_argument("--pairs", type=_pairs, help="candidates, such as 128M; default: DataComp's four scales")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", type=_change, help="another constant"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page instead")
    given = parser.parse_args(arguments)
    if given.write is not None:
        given.write.write_text(page_with_tables(given.write.read_text()))
        return
    try:
        known = values(dict(given.set))
    except KeyError as error:
        sys.exit(f"error: --set: {error.args[0]}")
    print(cost_table([given.pairs] if given.pairs else SIZES, known))


def _pairs(text: str) -> float:
    factor = {"M": 1e6, "B": 1e9}.get(text[-1:], 0)
    amount = float(text[:-1]) * factor if factor else float(text)
    if not 0 < amount < 1e15:
        raise ValueError(text)
    return amount


def _change(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if float(value) <= 0:
        raise ValueError(text)
    return name, float(value)


if __name__ == "__main__":
    main()
