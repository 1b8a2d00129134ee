"""Models that would silently give wrong results are refused: tokenizers that are missing, encoders that are none."""

import shutil
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pyarrow as pa
import pytest

from pairsieve.filters._chat_http import retry_after
from pairsieve.filters.caption import Caption
from pairsieve.filters.itm import Itm
from pairsieve.filters.sieve import Sieve
from pairsieve.schemas.errors import UserError

pytest.importorskip("torch")
pytest.importorskip("transformers")

from pairsieve.filters._transformers_models import most_pixels, shortest_edge
from tests.support_capfilt import model

KEPT = ("config.json", "model.safetensors", "processor_config.json", "preprocessor_config.json", "1_Pooling")


def without_tokenizer(folder: Path, name: str) -> str:
    """A model's directory as somebody copies it by hand: weights and configuration."""
    shutil.copytree(model(name), folder / name)
    for path in (folder / name).iterdir():
        if path.name not in KEPT:
            path.unlink()
    return str(folder / name)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Caption, "blip"), (Caption, "blip2"), (Itm, "blip-itm"), (Itm, "blip2-itm"), (Sieve, "sentences")],
)
def test_a_model_without_its_tokenizer_is_refused(
    tmp_path: Path, kind: type[Caption] | type[Itm] | type[Sieve], name: str
) -> None:
    """Transformers makes one of five tokens instead, and every score and caption would be wrong."""
    made = kind(model=without_tokenizer(tmp_path, name), device="cpu")
    with pytest.raises(UserError, match=r"tokenizer") as caught:
        made.open()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["llava", "blip2", "blip-itm"])
def test_a_model_that_embeds_no_sentences_is_refused(name: str) -> None:
    """Before anything runs, with the kinds that do."""
    made = Sieve(model=str(model(name)), texts=("text",))
    with pytest.raises(ValueError, match=r"a sentence encoder is one of .*bert"):
        made.check({"text": pa.string()})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3", 3.0), (" 1.5 ", 1.5), ("", None), ("-1", None), ("soon", None), ("1e9", None), ("Mon, 01 Jan 0001", None)],
)
def test_a_wait_in_seconds(text: str, seconds: float | None) -> None:
    """Decimals too, which some servers send; nothing else."""
    assert retry_after(text) == seconds


def test_a_wait_until_a_date() -> None:
    """A date that is over is no wait."""
    later = retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=50), usegmt=True))
    assert later is not None and 40 < later <= 50
    assert retry_after("Fri, 31 Dec 1999 23:59:59 GMT") == 0


@pytest.mark.parametrize(("size", "side"), [({"shortest_edge": 336}, 336), ({"height": 28, "width": 28}, 0), (None, 0)])
def test_strips_are_measured_as_they_are_resized(size: dict[str, int] | None, side: int) -> None:
    """The shorter side becomes the model's before the rest is cut off."""
    processor = type("Processor", (), {"size": size})()
    assert shortest_edge(processor) == side
    assert most_pixels(200_000, 1, 336) == 200_000 * 336**2 and most_pixels(640, 480, 336) == 640 * 480


def test_bounds_of_pixels_are_no_sides() -> None:
    """As of Qwen-VL's processors."""
    assert shortest_edge(type("Processor", (), {"size": {"shortest_edge": 3136, "longest_edge": 12845056}})()) == 0
