"""The card of a Hugging Face export: what it tells, and that nothing in it can break out."""

from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import pairsieve
from pairsieve import HuggingFace
from pairsieve.pipelines.export_card import LONGEST, escaped, fenced, front_matter
from pairsieve.pipelines.recipe_public import HIDDEN, public
from tests.support_exports import make_run, pictures

HOSTILE = [
    "---",
    "```",
    "~~~",
    "| a | b |",
    "<script>alert(1)</script>",
    "[x](javascript:1)",
    "![](http://e.org/p.png)",
]
HOSTILE += [
    "# head",
    "a\nb\n---\nlicense: mit",
    "`x`",
    "http://e.org",
    "www.e.org",
    "&lt;",
    "\\",
    "__init__",
    "{{ x }}",
]
PUNCTUATION = set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a run that dropped three of ten pairs, and kept one that cannot be exported."""
    root = tmp_path_factory.mktemp("card")
    texts = [*["one"] * 3, *(f"more than two words {i}" for i in range(7))]
    images = [*pictures(9), b"<html>"]
    filters = [{"caption_words": {"least": 2}}, {"where": "text <> '```' AND text <> '---'"}]
    columns = {"a|b": pa.array(range(10))}
    run = make_run(root, images, texts, filters, columns)
    pairsieve.export(run, root / "my_set", HuggingFace(license="cc-by-4.0"), workers=1)
    return (root / "my_set/README.md").read_text()


def head(card: str) -> Any:
    """The front matter, as the Hub reads it."""
    _, text, _ = card.split("---\n", 2)
    return yaml.safe_load(text)


def test_front_matter_says_what_the_hub_asks(card: str) -> None:
    """Licence, size, tasks, files, number of rows."""
    told = head(card)
    assert told["license"] == "cc-by-4.0" and told["size_categories"] == ["n<1K"]
    assert told["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]
    assert told["dataset_info"]["splits"][0]["num_examples"] == 6
    assert "image-to-text" in told["task_categories"]


def test_every_candidate_is_accounted_for(card: str) -> None:
    """Kept, dropped by step and reason, kept but not exported: as the run's verdicts say."""
    assert "6 image–text pairs of 10 candidates, in 1 Parquet file" in card
    assert "| kept |  | 7 |" in card
    assert "| caption_words | too_few_words | 3 |" in card
    assert "| kept, but not exported | not_an_image | 1 |" in card


def test_rights_recipe_and_loading_are_told(card: str) -> None:
    """Whose the images are, the recipe that made the set, the two lines that load it."""
    assert "belong to their owners" in card and "load_dataset('my_set'" in card
    block = card.split("## Recipe")[1].split("````yaml\n")[1].split("\n````")[0]
    recipe = yaml.safe_load(block)
    assert recipe["filters"][0] == {"caption_words": {"least": 2}}
    assert recipe["pool"]["pairs"]["path"] == "…/pool.parquet"


def test_names_of_columns_are_escaped(card: str) -> None:
    """A bar would end the cell."""
    assert r"| a\|b | int64 |" in card


@pytest.mark.parametrize("rows, label", [(999, "n<1K"), (1000, "1K<n<10K"), (12_800_000, "10M<n<100M")])
def test_size_category(rows: int, label: str) -> None:
    """The Hub's names of sizes."""
    told = yaml.safe_load(front_matter(HuggingFace(), rows, 1, "x", True))
    assert told["size_categories"] == [label]


@given(st.text(max_size=60) | st.sampled_from(HOSTILE))
def test_front_matter_is_yaml_whatever_the_name(name: str) -> None:
    """And no line of it can be taken for its end."""
    text = front_matter(HuggingFace(), 5, 5, name, True)
    assert yaml.safe_load(text)["license"] == "unknown"
    assert not any(line.rstrip() in ("---", "...") for line in text.splitlines())


@given(st.text(max_size=2 * LONGEST) | st.sampled_from(HOSTILE))
def test_escaped_text_is_one_line_without_markup(text: str) -> None:
    """Every sign that Markdown knows has a backslash, unless only harmless ones are in it."""
    found = escaped(text)
    assert found.isprintable() and len(found) <= 2 * LONGEST
    bare = found.replace("\\\\", "")
    loose = {c for i, c in enumerate(bare) if c in PUNCTUATION and c != "\\" and (i == 0 or bare[i - 1] != "\\")}
    assert loose <= set(",_.:-")


@given(st.text(alphabet="`~a\n", max_size=40))
def test_a_fence_is_longer_than_any_in_the_text(text: str) -> None:
    """So that the text cannot end its block."""
    first, *_, last = fenced(text, "yaml").rstrip("\n").split("\n")
    assert first == last + "yaml" and set(last) == {"`"} and last not in text


@pytest.mark.parametrize(
    "value, shown",
    [
        ({"api_key": "sk-1"}, {"api_key": HIDDEN}),
        ({"api_key_env": "NAME"}, {"api_key_env": "NAME"}),
        ({"storage": {"secret": "x", "anon": True}}, {"storage": {"secret": HIDDEN, "anon": True}}),
        ({"hf_token": ["a"]}, {"hf_token": [HIDDEN]}),
        ("s3://key:pass@bucket/p", f"s3://{HIDDEN}@bucket/p"),
        ("https://e.org/x.parquet?X-Amz-Signature=abc", f"https://e.org/x.parquet?{HIDDEN}"),
        ("https://e.org/a b", "https://e.org/a b"),
        ("see https://u:p@e.org/ and https://e.org/?k=1", f"see https://{HIDDEN}@e.org/ and https://e.org/?{HIDDEN}"),
        ("/home/me/pool/x.parquet", "…/x.parquet"),
        ("~/pool/", "…/pool"),
        ("file:///home/me/pool", "file://…/pool"),
        ("s3://bucket/pool/*.parquet", "s3://bucket/pool/*.parquet"),
        ("least(width, height) >= 200", "least(width, height) >= 200"),
        ("http://[::1", HIDDEN),
        ([1, 0.5, None, True], [1, 0.5, None, True]),
    ],
)
def test_secrets_and_places_are_left_out(value: Any, shown: Any) -> None:
    """Of settings by their names, of URLs by their parts, of local paths all but the end."""
    assert public(value) == shown
