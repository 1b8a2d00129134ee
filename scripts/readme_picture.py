"""Draw the README's picture: pairs of a demo run with their captions, scores and verdicts.

python -m scripts.readme_picture runs/demo docs/demo.png
"""

import io
import sys
from textwrap import wrap
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from pairsieve.pipelines.catalog import query

CELL, PICTURE, COLUMNS = (190, 250), 150, 6
GREEN, RED, INK = "#1a7f37", "#b42318", "#1f2328"

_KEPT = "s.dropped_by IS NULL AND regexp_full_match(s.text, '[ -~]+')"
_SQL = """
    SELECT d.image, s.text, s.clip_score, s.dropped_by, s.reason
    FROM scores s JOIN scores_download d USING (shard, row)
    WHERE {where} AND d.image IS NOT NULL ORDER BY s.uid LIMIT {count}
"""


def main(run: str, target: str) -> None:
    """Two rows: kept pairs, and pairs dropped by each step that saw their image."""
    kept = query(run, _SQL.format(where=_KEPT, count=COLUMNS)).to_pylist()
    dropped = []
    for step, count in (("clip_score", 2), ("same_image", 1), ("image_shape", 3)):
        where = f"s.dropped_by = '{step}' AND regexp_full_match(s.text, '[ -~]+') AND coalesce(s.clip_score, 0) < 0.5"
        dropped += query(run, _SQL.format(where=where, count=count)).to_pylist()
    sheet = Image.new("RGB", (CELL[0] * COLUMNS, CELL[1] * 2), "white")
    for i, pair in enumerate([*kept, *dropped]):
        _draw(sheet, pair, (i % COLUMNS) * CELL[0], (i // COLUMNS) * CELL[1])
    sheet.quantize(128).save(target, optimize=True)


def _draw(sheet: Image.Image, pair: dict[str, Any], x: int, y: int) -> None:
    """One pair: picture, caption, verdict."""
    picture = Image.open(io.BytesIO(pair["image"])).convert("RGB")
    picture.thumbnail((PICTURE, PICTURE))
    sheet.paste(picture, (x + (CELL[0] - picture.width) // 2, y + 10 + (PICTURE - picture.height) // 2))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    lines = wrap(pair["text"], 28)[:3]
    for n, line in enumerate(lines):
        pen.text((x + 10, y + PICTURE + 18 + 15 * n), line, INK, font)
    score = "" if pair["clip_score"] is None else f"  {pair['clip_score']:.2f}"
    verdict = f"kept{score}" if pair["dropped_by"] is None else f"{pair['dropped_by']}: {pair['reason']}{score}"
    pen.text((x + 10, y + CELL[1] - 22), verdict, GREEN if pair["dropped_by"] is None else RED, font)


if __name__ == "__main__":
    main(*sys.argv[1:])
