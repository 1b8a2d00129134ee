"""The thresholds of a run's steps that compare one number a pair: which column, on which side a pair stays.

They are what each filter's ``keep`` compares, told from ``run.yaml`` alone: settings, and the thresholds in force that
the whole pool settled.  A ``where`` counts as far as it is comparisons joined by AND.  Steps that decide by several
pairs, by labels or by lists have none.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from pairsieve.filters.load import short_name
from pairsieve.pipelines.report_source import Source
from pairsieve.pipelines.sql import quote
from pairsieve.schemas.run import StepRecord

NUMBERS = (
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
    "FLOAT",
    "DOUBLE",
)
WHERE = "where"
_EXACT = 2**53
"""Whole numbers from it on are told apart by columns of whole numbers, not by a threshold here."""
_RANKED = ("aesthetic", "clip_score", "neg_clip_loss", "norm_sim", "sieve", "tmars")
"""Filters with ``min``, ``top`` and ``exclude``; their column is called as they are unless a setting names one."""
_LIMITS = {
    "caption_words": (
        ("caption_words", "least", ">="),
        ("caption_words", "most", "<="),
        ("caption_characters", "least_characters", ">="),
    ),
    "decontaminate": (("decontaminate_similarity", "threshold", "<="), ("decontaminate_distance", "distance", ">")),
    "download": (
        ("least(original_width, original_height)", "min_image_size", ">="),
        ("original_width * original_height", "max_image_area", "<="),
        ("original_width / original_height", "max_aspect_ratio", "<="),
    ),
    "image_shape": (("short_side", "shortest", ">="), ("aspect_ratio", "aspect", "<=")),
    "language": (("lang_probability", "min_probability", ">="),),
    "nsfw": (("nsfw", "max", "<="),),
    "random_sample": (("random_number", "fraction", "<"),),
    "text_entities": (("entity_tokens", "least", ">="),),
    "zero_shot": (("zero_shot_score", "min", ">="), ("zero_shot_probability", "min_probability", ">=")),
}
"""Of each filter its columns, the setting that each is compared with, and how a pair that stays compares."""
_SIDES = {
    "download": {
        "least(original_width, original_height)": 'least("original_width", "original_height")::DOUBLE',
        "original_width * original_height": '"original_width"::DOUBLE * "original_height"',
        "original_width / original_height": (
            'greatest("original_width", "original_height")::DOUBLE / least("original_width", "original_height")'
        ),
    }
}
"""What is computed from two columns: its name for people, and SQL."""
_SIGNS = {
    "COMPARE_GREATERTHANOREQUALTO": ">=",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_LESSTHAN": "<",
}
_TURNED = {">=": "<=", ">": "<", "<=": ">=", "<": ">"}


@dataclass(frozen=True)
class Cut:
    """A pair stays at step number ``step`` where the column (``sql`` of a view) compares so with the value.

    ``kind`` is the column's DuckDB type, in which the value is compared; ``why`` names the setting.
    """

    step: int
    view: str
    column: str
    sql: str
    kind: str
    sign: str
    value: float
    why: str

    @property
    def test(self) -> str:
        """SQL that is true for pairs that stay, null for those without a value; to a ``where`` NaN is the greatest."""
        if self.why == WHERE:
            return f"{self.sql} {self.sign} {self.limit}"
        return f"CASE WHEN isnan({self.sql}::DOUBLE) THEN NULL ELSE {self.sql} {self.sign} {self.limit} END"

    @property
    def limit(self) -> str:
        """The value in SQL, in the column's own type where that is a float."""
        return f"CAST('{self.value!r}' AS {self.kind if self.kind in ('FLOAT', 'DOUBLE') else 'DOUBLE'})"


def cuts(source: Source) -> list[Cut]:
    """All of them, in the order of the steps; those whose column no view has are left out."""
    found: list[Cut] = []
    for k, step in enumerate(source.steps):
        found += _of_step(source, k, step)
    return found


def _of_step(source: Source, k: int, step: StepRecord) -> Iterator[Cut]:
    name = step.filter
    written = source.settings[k][1] if k < len(source.settings) else {}
    if name == WHERE:
        yield from _of_expression(source, k, str(step.deciding.get("expression") or ""))
    elif name in _RANKED:
        yield from _of_ranked(source, k, step, written)
    elif name == "itm":
        column = "itm_best" if written.get("texts") else "itm"
        yield from _limit(source, k, step, column, ">", step.deciding.get("min"), "min")
    elif name == "zero_shot" and step.deciding.get("drop"):
        return  # labels that do not count stay there
    else:
        for column, setting, sign in _LIMITS.get(name, ()):
            by_score = name == "decontaminate" and written.get("by") == "score"
            column = str(written.get("column")) if by_score else column
            yield from _limit(source, k, step, column, sign, step.deciding.get(setting), setting)


def _of_ranked(source: Source, k: int, step: StepRecord, written: Mapping[str, Any]) -> Iterator[Cut]:
    """``min`` and ``top``; with ``exclude`` pairs below either stay."""
    own = "sieve_fused" if step.deciding.get("clip") else step.filter
    column = str(written.get("column") or own)
    given = {"min": step.deciding.get("min"), f"top {step.deciding.get('top')}": (step.settled or {}).get("threshold")}
    limits = [(why, float(value)) for why, value in given.items() if value is not None]
    if step.deciding.get("exclude") and limits:
        why, value = max(limits, key=lambda limit: limit[1])
        yield from _limit(source, k, step, column, "<", value, f"exclude {why}")
        return
    for why, value in limits:
        yield from _limit(source, k, step, column, ">=", value, why)


def _limit(source: Source, k: int, step: StepRecord, column: str, sign: str, value: Any, why: str) -> Iterator[Cut]:
    """One comparison; none where the setting is not given, or lets every pair pass."""
    if value is None or (sign == ">=" and not value and why != "min" and not why.startswith("top")):
        return
    if (sql := _SIDES.get(step.filter, {}).get(column)) is not None:
        if f"scores_{step.id}" in source.columns:
            yield Cut(k, f"scores_{step.id}", column, sql, "DOUBLE", sign, float(value), why)
        return
    own = (place_of(source, name, k, only=True) for name in _stored(step, column))
    if place := next((place for place in own if place), None) or place_of(source, column, k):
        yield Cut(k, *place, sign, float(value), why)


def _stored(step: StepRecord, own: str) -> tuple[str, ...]:
    """What a filter's own column may be called in this run: a leading filter name becomes the step's id."""
    name = short_name(step.filter)
    renamed = step.id + own.removeprefix(name) if own.startswith(name) else own
    return (renamed, f"{step.id}_{own}", own)


def place_of(source: Source, column: str, k: int, only: bool = False) -> tuple[str, str, str, str] | None:
    """View, name, SQL and type of a number that step ``k`` has, or one before, or the pool; ``only``: step ``k``."""
    steps = source.steps[k : k + 1] if only else source.steps[k::-1]
    names = [f"{kind}_{step.id}" for step in steps for kind in ("scores", "derived")]
    for view in (*names, *(() if only else ("pairs",))):
        known = {name.casefold(): name for name in source.columns.get(view, ())}
        name = known.get(column.casefold()) or known.get(column.casefold().removeprefix("source_"))
        if name is not None and source.columns[view][name] in NUMBERS:
            return view, name, quote(name), source.columns[view][name]
    return None


def _of_expression(source: Source, k: int, expression: str) -> Iterator[Cut]:
    """Comparisons of a column with a number that must all hold."""
    try:
        sql = "SELECT json_serialize_sql(?)"
        ((text,),) = source.con.execute(sql, [f"SELECT 1 WHERE ({expression}\n)"]).fetchall()
        tests = list(_required(json.loads(text)["statements"][0]["node"]["where_clause"]))
    except (duckdb.Error, LookupError, TypeError, ValueError):
        return
    for column, sign, value in tests:
        place = place_of(source, column, k)
        if place and (abs(value) < _EXACT or place[-1] in ("FLOAT", "DOUBLE")):
            yield Cut(k, *place, sign, value, WHERE)


def _required(node: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """(column, sign, number) of each comparison that AND joins."""
    if node["type"] == "CONJUNCTION_AND":
        for child in node["children"]:
            yield from _required(child)
    elif node["type"] == "COMPARE_BETWEEN":
        for bound, sign in (("lower", ">="), ("upper", "<=")):
            yield from _comparison(node["input"], sign, node[bound])
    elif node["type"] in _SIGNS:
        yield from _comparison(node["left"], _SIGNS[node["type"]], node["right"])
        yield from _comparison(node["right"], _TURNED[_SIGNS[node["type"]]], node["left"])


def _comparison(column: Mapping[str, Any], sign: str, value: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    if column["type"] == "COLUMN_REF" and value["type"] == "VALUE_CONSTANT":
        yield column["column_names"][-1], sign, float(value["literal"]["text"])
