"""Photographs and drawings of Tux Paint: hashes are ImageHash's, copies are found, different pictures are not."""

from pathlib import Path
from typing import Any

import imagehash
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairsieve.filters._images import decode
from pairsieve.filters.near_duplicate_image import NearDuplicateImage
from pairsieve.pipelines.run import run
from tests.support_phash import encoded

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def stamps(stamp_folder: Path, stamp_images: list[Path]) -> dict[str, bytes]:
    """Every tenth image file, by its name."""
    return {str(path): (stamp_folder / path).read_bytes() for path in stamp_images[::10]}


@pytest.mark.parametrize("bits", [64, 256])
def test_hashes_are_imagehashs(stamps: dict[str, bytes], bits: int) -> None:
    """Of pictures with alpha, palettes and symmetries."""
    made = NearDuplicateImage(bits=bits, decode="exact")
    found = made.score(pa.record_batch({"image": list(stamps.values())}))["phash"].to_pylist()
    pictures = [Image.fromarray(decode(data)) for data in stamps.values()]
    wanted = [str(imagehash.phash(picture, hash_size=int(bits**0.5))) for picture in pictures]
    said = {one.hex(): hashed for one, hashed in zip(found, wanted, strict=True) if one is not None}
    assert list(said) == list(said.values())
    assert found.count(None) < len(found) / 20


@pytest.mark.parametrize("bits", [64, 256])
def test_copies_are_found_and_nothing_else(stamps: dict[str, bytes], tmp_path: Path, bits: int) -> None:
    """Most JPEG copies on white go, and none for the sake of another picture."""
    files = {f"0 {name}": data for name, data in stamps.items()}
    for name, data in stamps.items():
        picture = Image.fromarray(decode(data))
        files[f"1 {name}"] = encoded(picture, quality=85)
        files[f"2 {name}"] = encoded(picture.resize((picture.width * 3 // 4, picture.height * 3 // 4)))
    (tmp_path / "pool").mkdir()
    pq.write_table(pa.table({"image": list(files.values()), "text": list(files)}), tmp_path / "pool" / "x.parquet")
    steps = [{"near_duplicate_image": {"bits": bits, "prefer": "text"}}]
    made: dict[str, Any] = {"pool": {"pairs": {"path": str(tmp_path / "pool")}}, "filters": steps}
    found = run(made, tmp_path / "run", workers=1)
    sql = "SELECT s.text, b.text AS best FROM scores s JOIN scores b ON s.near_duplicate_image_of = b.uid"
    pairs = [(row["text"][2:], row["best"][2:]) for row in found.query(sql).to_pylist()]
    assert all(one == best for one, best in pairs)
    assert len(pairs) > 0.85 * 2 * len(stamps)
