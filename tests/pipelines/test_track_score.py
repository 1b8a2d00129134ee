"""track score: DataComp's published figures from its published results, and what would change a mean in silence.

``track_published.csv`` are the rows of DataComp's checkpoints in ``docs/openclip_results.csv`` of
github.com/mlfoundations/open_clip (commit 0a1cc15).
"""

import csv
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pairsieve.pipelines.track_results import LARGEST, read
from pairsieve.pipelines.track_score import FIGURES, Results, score
from pairsieve.pipelines.track_score_cli import score as command
from pairsieve.pipelines.track_tasks import ALL_OF_FLICKR, AVERAGED, TASKS, Task, find, of_group
from pairsieve.schemas.errors import UserError

PUBLISHED = str(Path(__file__).with_name("track_published.csv"))

# ImageNet, shifts, VTAB, retrieval, average: Table 3 of arXiv 2304.14108; the two rows of the large scale whose
# cells Table 3 has stale (image- and text-based) with retrieval and average of Table 27.
TABLE_3 = {
    "commonpool_s_basic_s13m_b4k": (0.038, 0.043, 0.150, 0.118, 0.142),
    "commonpool_s_text_s13m_b4k": (0.046, 0.052, 0.169, 0.125, 0.157),
    "commonpool_s_laion_s13m_b4k": (0.031, 0.040, 0.136, 0.092, 0.133),
    "commonpool_s_clip_s13m_b4k": (0.051, 0.055, 0.190, 0.119, 0.173),
    "datacomp_s_s13m_b4k": (0.039, 0.045, 0.162, 0.094, 0.144),
    "commonpool_m_s128m_b4k": (0.176, 0.152, 0.259, 0.219, 0.258),
    "commonpool_m_basic_s128m_b4k": (0.226, 0.193, 0.284, 0.251, 0.285),
    "commonpool_m_text_s128m_b4k": (0.255, 0.215, 0.328, 0.249, 0.307),
    "commonpool_m_image_s128m_b4k": (0.268, 0.213, 0.319, 0.256, 0.312),
    "commonpool_m_laion_s128m_b4k": (0.230, 0.198, 0.307, 0.233, 0.292),
    "commonpool_m_clip_s128m_b4k": (0.273, 0.230, 0.338, 0.251, 0.328),
    "datacomp_m_s128m_b4k": (0.297, 0.239, 0.346, 0.231, 0.328),
    "commonpool_l_s1b_b8k": (0.459, 0.378, 0.426, 0.419, 0.437),
    "commonpool_l_basic_s1b_b8k": (0.516, 0.423, 0.446, 0.480, 0.458),
    "commonpool_l_text_s1b_b8k": (0.561, 0.465, 0.465, 0.479, 0.476),
    "commonpool_l_image_s1b_b8k": (0.572, 0.454, 0.483, 0.481, 0.481),
    "commonpool_l_laion_s1b_b8k": (0.553, 0.453, 0.510, 0.495, 0.501),
    "commonpool_l_clip_s1b_b8k": (0.578, 0.474, 0.538, 0.466, 0.529),
    "datacomp_l_s1b_b8k": (0.631, 0.508, 0.546, 0.498, 0.537),
    "commonpool_xl_s13b_b90k": (0.723, 0.612, 0.611, 0.569, 0.621),
    "commonpool_xl_laion_s13b_b90k": (0.755, 0.637, 0.624, 0.620, 0.636),
    "commonpool_xl_clip_s13b_b90k": (0.764, 0.655, 0.643, 0.588, 0.650),
    "datacomp_xl_s13b_b90k": (0.792, 0.679, 0.652, 0.608, 0.663),
}


def published() -> dict[str, tuple[float, ...]]:
    """Our figures of the published results, by the tag of the weights; of datacomp_xl those of its ViT-L/14."""
    found: dict[str, tuple[float, ...]] = {}
    for results in read([PUBLISHED]):
        figures = score(results).figures
        values = tuple(figures[name].value or math.nan for name in FIGURES)
        found.setdefault(results.label.split(" ", 1)[1], values)
    return found


def lines(values: Mapping[str, object], path: Path) -> Path:
    """DataComp's file with a value for each task, by name."""
    records = [
        {"key": task.key, "dataset": task.name, "metrics": {"main_metric": values[task.name]}}
        for task in TASKS
        if task.name in values
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def whole(value: float = 0.5) -> dict[str, object]:
    """A value for each task, as evaluate.py has it: none for the two without a main metric."""
    return {task.name: value if task.metric else None for task in TASKS}


def one(path: Path) -> Results:
    """The only model of a file."""
    (found,) = read([str(path)])
    return found


def run(*arguments: object) -> str:
    """What the command prints."""
    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_there_are_40_tasks() -> None:
    """40 tasks, 38 of them averaged; 6 shifts, 13 of VTAB, 3 of retrieval."""
    assert (len(TASKS), len(AVERAGED)) == (40, 38)
    assert [len(of_group(name)) for name in ("imagenet", "shifts", "vtab", "retrieval")] == [1, 6, 13, 3]


def test_main_metrics() -> None:
    """The tasks whose main metric is not acc1 are those of DataComp's list."""
    other = {task.name: task.metric for task in TASKS if task.metric != "acc1"}
    assert other == {
        **dict.fromkeys(
            ("Caltech-101", "FGVC Aircraft", "Oxford Flowers-102", "Oxford-IIIT Pet"), "mean_per_class_recall"
        ),
        **dict.fromkeys(("Flickr", "MSCOCO"), "mean_recall@1"),
        "WinoGAViL": "jaccard_score_10-12",
        "iWildCam": "F1-macro_all",
        "FMoW": "acc_worst_region",
        "Dollar Street": "acc_top5_wg",
        "GeoDE": "acc_wg",
        "FairFace": None,
        "UTKFace": None,
    }


@pytest.mark.parametrize("tag", TABLE_3)
def test_published_figures(tag: str) -> None:
    """From DataComp's published results of single tasks come its published figures."""
    assert published()[tag] == pytest.approx(TABLE_3[tag], abs=0.001)


def test_the_published_averages() -> None:
    """The average of each published row is the one beside it, as far as four digits of the tasks tell."""
    with Path(PUBLISHED).open(newline="") as file:
        given = [float(row["Average perf. on 38 datasets"]) for row in csv.DictReader(file)]
    assert [score(results).figures["average"].value for results in read([PUBLISHED])] == pytest.approx(given, abs=2e-5)


def test_no_filter_at_small_is_another_run() -> None:
    """Known difference: the published checkpoint of small without a filter is not the run of Table 3."""
    found = published()["commonpool_s_s13m_b4k"]
    assert found == pytest.approx((0.027, 0.037, 0.158, 0.117, 0.142), abs=0.001)
    assert found != pytest.approx((0.025, 0.033, 0.145, 0.114, 0.132), abs=0.001)  # Table 3


def test_image_based_at_small_is_a_copy() -> None:
    """Known difference: open_clip's row of small, image-based, is that of DataComp's best, not Table 3's."""
    found = published()
    assert found["commonpool_s_image_s13m_b4k"] == found["datacomp_s_s13m_b4k"]
    assert found["commonpool_s_image_s13m_b4k"] != pytest.approx((0.043, 0.047, 0.178, 0.121, 0.159), abs=0.001)


@pytest.mark.parametrize(
    ("tag", "stale"),
    [("commonpool_l_image_s1b_b8k", (0.479, 0.476)), ("commonpool_l_text_s1b_b8k", (0.352, 0.466))],
)
def test_stale_cells_at_large(tag: str, stale: tuple[float, float]) -> None:
    """Known difference: retrieval and average of two rows are other in Table 3 than the published results say."""
    retrieval, average = published()[tag][3:]
    assert abs(retrieval - stale[0]) > 0.0015
    assert abs(average - stale[1]) > 0.0015


def test_basic_at_medium_is_not_table_26s() -> None:
    """Known difference: Table 26 has 0.294 for the basic filter at medium; its published results give 0.285."""
    assert published()["commonpool_m_basic_s128m_b4k"][4] == pytest.approx(0.285, abs=0.001)


@given(st.lists(st.floats(0, 1), min_size=38, max_size=38), st.randoms())
def test_means_as_datacomp(values: list[float], order: Any) -> None:
    """The average is the plain mean of the 38, the others of their tasks, in whatever order results come."""
    results = Results("any", "any")
    pairs = list(zip(AVERAGED, values, strict=True))
    order.shuffle(pairs)
    for task, value in pairs:
        results.add(task, value, "any")
    by_name = {task.name: value for task, value in pairs}
    found = score(results).figures
    assert found["average"].value == pytest.approx(sum(values) / 38)
    assert found["imagenet"].value == by_name["ImageNet 1k"]
    assert found["retrieval"].value == pytest.approx((by_name["Flickr"] + by_name["MSCOCO"] + by_name["WinoGAViL"]) / 3)


@pytest.mark.parametrize(
    ("spelt", "name"),
    [
        ("wds/vtab/caltech101", "Caltech-101"),
        ("wds/vtab-clevr_count_all", "CLEVR Counts"),
        ("vtab/cifar10", "CIFAR-10"),
        ("imagenet1k", "ImageNet 1k"),
        ("IMAGENET-A", "ImageNet-A"),
        ("imagenetv2", "ImageNet v2"),
        ("wds/mscoco_captions", "MSCOCO"),
        (ALL_OF_FLICKR, "Flickr"),
        ("wds/wilds/fmow", "FMoW"),
        ("fairness/geode", "GeoDE"),
        ("sun397", "SUN397"),
    ],
)
def test_names_of_other_tools(spelt: str, name: str) -> None:
    """Tasks are known under the keys and names of DataComp and of clip_benchmark."""
    found = find(spelt)
    assert found is not None and found.name == name


@pytest.mark.parametrize("other", ["imagenet21k", "vtab/dmlab", "cifar", "", "/", "wds/fer2013"])
def test_other_tasks_are_none(other: str) -> None:
    """A task that DataComp has not is none, however near its name is."""
    assert find(other) is None


def test_every_spelling_is_one_tasks() -> None:
    """Keys and names of all tasks find their own task."""
    assert [find(task.key) for task in TASKS] == [find(task.name) for task in TASKS] == list(TASKS)


def test_datacomps_file(tmp_path: Path) -> None:
    """eval_results.jsonl with metrics as evaluate.py writes them: the main metric counts; the folder is the label."""
    values = whole()
    path = lines(values, tmp_path / "eval_results.jsonl")
    found = one(path)
    assert found.label == tmp_path.name
    assert score(found).figures["average"].value == 0.5
    assert one(tmp_path).values == found.values


def test_the_metric_that_counts(tmp_path: Path) -> None:
    """Without a main_metric the task's own one is taken, not the accuracy beside it."""
    path = tmp_path / "one.json"
    metrics = {"acc1": 0.9, "acc5": 1.0, "mean_per_class_recall": 0.7}
    path.write_text(json.dumps({"dataset": "wds/vtab/pets", "model": "m", "pretrained": "p", "metrics": metrics}))
    assert one(path).values == {"Oxford-IIIT Pet": 0.7}


def test_recall_of_both_sides(tmp_path: Path) -> None:
    """clip_benchmark's retrieval gives two recalls; DataComp's metric is their mean."""
    path = tmp_path / "one.json"
    metrics = {"image_retrieval_recall@1": 0.25, "text_retrieval_recall@1": 0.5, "text_retrieval_recall@5": 1.0}
    path.write_text(json.dumps({"dataset": "wds/mscoco_captions", "metrics": metrics, "task": "zeroshot_retrieval"}))
    assert one(path).values == {"MSCOCO": 0.375}


def test_files_of_one_model_are_one_row(tmp_path: Path) -> None:
    """clip_benchmark writes a file for each task; those of a model are one row, of another model another."""
    for name, model, dataset in [("a", "B", "mnist"), ("b", "B", "cars"), ("c", "L", "mnist")]:
        record = {"dataset": dataset, "model": model, "pretrained": "x.pt", "metrics": {"acc1": 0.5}}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    assert {found.label: sorted(found.values) for found in read([str(tmp_path)])} == {
        "B x.pt": ["MNIST", "Stanford Cars"],
        "L x.pt": ["MNIST"],
    }


def test_clip_benchmarks_table(tmp_path: Path) -> None:
    """The CSV of clip_benchmark's build, columns as version 1.6.2 writes them: a row for a task and model."""
    path = tmp_path / "benchmark.csv"
    path.write_text(
        "dataset,model,task,acc5,acc1,pretrained,model_fullname,mean_per_class_recall,language\n"
        "wds/vtab/pets,B,zeroshot_classification,nan,0.35,x.pt,B x.pt,0.3333333333333333,en\n"
        "wds/wilds/camelyon17,B,zeroshot_classification,nan,0.5,x.pt,B x.pt,0.25,en\n"
        "wds/cars,B,linear_probe,0.75,0.5,x.pt,B x.pt,0.5,en\n"
    )
    found = one(path)
    assert found.label == "B x.pt"
    assert found.values == {"Oxford-IIIT Pet": 0.3333333333333333, "Camelyon17": 0.5}
    assert found.absent == {"Stanford Cars": "linear_probe, not zero-shot"}


def test_clip_benchmark_without_the_metric_that_counts(tmp_path: Path) -> None:
    """Its accuracy on FMoW is not DataComp's, which is the worst region's: the task is missing, and why is said."""
    path = tmp_path / "fmow.json"
    metrics = '{"acc1": 0.5, "acc5": NaN, "mean_per_class_recall": 0.4}'
    path.write_text(f'{{"dataset": "wds/wilds/fmow", "model": "B", "pretrained": "x", "metrics": {metrics}}}')
    assert one(path).absent == {"FMoW": "no acc_worst_region"}


def test_missing_tasks_are_named(tmp_path: Path) -> None:
    """Without all 38 there is no average: one line names what is missing."""
    values = whole()
    del values["FMoW"]
    with pytest.raises(UserError, match=r"1 of the 38 tasks are missing: FMoW; .*--allow-missing"):
        score(one(lines(values, tmp_path / "r.jsonl")))


def test_a_name_that_is_nearly_a_task(tmp_path: Path) -> None:
    """A column that is a slip of a missing task's name is pointed at."""
    path = tmp_path / "r.csv"
    path.write_text("name,MNSIT\nm,0.5\n")
    with pytest.raises(UserError, match=r"is 'MNSIT' MNIST\?"):
        score(one(path))


def test_partial_averages_are_marked(tmp_path: Path) -> None:
    """With --allow-missing figures of fewer tasks have a star and their count; those without any a dash."""
    values = {name: 0.5 for name in whole() if name not in ("ImageNet 1k", "MSCOCO", "FairFace", "UTKFace")}
    shown = run("--allow-missing", lines(values, tmp_path / "r.jsonl"))
    assert "0.500* (36 of 38)" in shown and "0.500* (2 of 3)" in shown and "–" in shown
    assert "r: without ImageNet 1k, MSCOCO" in shown


@pytest.mark.parametrize(("given", "what"), [(math.nan, "NaN"), (None, "no mean_per_class_recall")])
def test_no_number_is_missing(tmp_path: Path, given: float | None, what: str) -> None:
    """NaN or null is said to be there, not averaged."""
    values = whole() | {"Caltech-101": given}
    with pytest.raises(UserError, match=rf"1 of the 38 tasks are missing: Caltech-101 \({what}, .*r\.jsonl:\d+\)"):
        score(one(lines(values, tmp_path / "r.jsonl")))


def test_no_number_among_many_missing(tmp_path: Path) -> None:
    """The task with NaN comes first, with file and line, however many others are missing."""
    path = lines({"CIFAR-10": 0.5, "WinoGAViL": math.nan}, tmp_path / "r.jsonl")
    with pytest.raises(UserError, match=r"37 of the 38 .*missing: WinoGAViL \(NaN, .*r\.jsonl:2\), .* and 31 more"):
        score(one(path))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (83.2, "is it percent"),
        (-0.1, "not between 0 and 1"),
        (math.inf, "not between"),
        ("high", "no number"),
        (True, "no number"),
    ],
)
def test_values_out_of_range(tmp_path: Path, given: object, what: str) -> None:
    """Percent, negative numbers, text: one line with file, line and task."""
    with pytest.raises(UserError, match=rf"r\.jsonl:19: MNIST.*{what}"):
        one(lines(whole() | {"MNIST": given}, tmp_path / "r.jsonl"))


def test_a_task_twice_with_two_values(tmp_path: Path) -> None:
    """evaluate.py run twice appends; which of two values counts is not guessed."""
    path = lines(whole(), tmp_path / "r.jsonl")
    record = {"key": "mnist", "dataset": "MNIST", "metrics": {"main_metric": 0.6}}
    path.write_text(path.read_text() + json.dumps(record) + "\n")
    with pytest.raises(UserError, match=r"r\.jsonl:41: MNIST is 0\.6 here, but 0\.5 in .*r\.jsonl:19"):
        one(path)


def test_a_task_twice_with_one_value(tmp_path: Path) -> None:
    """The same line twice changes nothing, and is told."""
    path = lines(whole(), tmp_path / "r.jsonl")
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    found = one(path)
    assert score(found).figures["average"].count == 38
    assert found.notes == ["Caltech-101 is there twice, with one value"]


def test_a_file_given_twice_is_one(tmp_path: Path) -> None:
    """A file that is named twice is read once."""
    path = str(lines(whole(), tmp_path / "r.jsonl"))
    assert len(read([path, path])) == 1
    assert read([path, path])[0].notes == []


def test_another_main_metric_is_told(tmp_path: Path) -> None:
    """Where main_metric is not the metric that it should be, it counts, as in DataComp, and is told."""
    path = tmp_path / "r.jsonl"
    metrics = {"main_metric": 0.9, "acc1": 0.9, "mean_per_class_recall": 0.7}
    path.write_text(json.dumps({"key": "vtab/pets", "dataset": "Oxford-IIIT Pet", "metrics": metrics}))
    found = one(path)
    assert found.values == {"Oxford-IIIT Pet": 0.9}
    assert "its mean_per_class_recall 0.7" in found.notes[0]


def test_older_flickr_is_told(tmp_path: Path) -> None:
    """DataComp's older list had Flickr with all images: another task under the same name."""
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"key": ALL_OF_FLICKR, "dataset": "Flickr", "metrics": {"main_metric": 0.1}}))
    assert "31,014" in one(path).notes[0]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.jsonl", '{"key": "mnist", "dataset"', "a.jsonl:1: is not JSON"),
        ("a.jsonl", "[1]", "a.jsonl:1: holds no"),
        ("a.jsonl", '{"dataset": "MNIST", "metrics": 1}', "a.jsonl:1: holds no"),
        ("a.jsonl", '{"dataset": ["MNIST"], "metrics": {}}', "a.jsonl:1: holds no"),
        ("a.jsonl", "", "no results"),
        ("a.json", "[" * 100_000, "is not JSON"),
        ("a.json", "[" + "1" * 5000 + "]", "is not JSON"),
        ("a.json", "{}", "holds no"),
        ("a.csv", "name,MNIST\nm,0.5,0.6\n", "a.csv:2: 3 fields, not the 2"),
        ("a.csv", "name,MNIST,mnist\nm,0.5,0.6\n", "a.csv:1: 'mnist' is there twice"),
        ("a.csv", "name,MNIST\nm,high\n", "a.csv:2: MNIST: 'high' is no number"),
        ("a.csv", 'name,MNIST\n"m,0.5\n', "unexpected end of data"),
        ("a.csv", "", "no results"),
        ("a.txt", "0.5", "there are .jsonl, .json, .csv"),
    ],
)
def test_files_that_are_no_results(tmp_path: Path, name: str, content: str, what: str) -> None:
    """Cut, empty and foreign files are one line with the place."""
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=what):
        read([str(path)])


def test_files_that_are_not_there(tmp_path: Path) -> None:
    """A file or folder without results is named."""
    with pytest.raises(UserError, match="no such file"):
        read([str(tmp_path / "none.jsonl")])
    with pytest.raises(UserError, match="in this folder"):
        read([str(tmp_path)])


def test_huge_and_binary_files(tmp_path: Path) -> None:
    """A checkpoint in place of results is refused by its size or its bytes, not read."""
    path = tmp_path / "a.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not text"):
        read([str(path)])
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(UserError, match="are no results"):
        read([str(path)])


@given(st.text(max_size=200))
def test_any_text_is_results_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    """Whatever a file holds, it is read or refused in one line."""
    for ending in (".jsonl", ".json", ".csv"):
        path = tmp_path_factory.getbasetemp() / f"any{ending}"
        path.write_text(content, encoding="utf-8", errors="replace")
        try:
            found: Iterable[Results] = read([str(path)])
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert all(found.label.isprintable() for found in found)


def test_the_table() -> None:
    """Several models are several rows, with three digits as DataComp publishes them."""
    shown = run(PUBLISHED)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    assert ["ViT-L-14 datacomp_xl_s13b_b90k", "0.792", "0.679", "0.652", "0.608", "0.663"] in rows
    assert shown.count("ViT-") == 27


def test_values_of_tasks(tmp_path: Path) -> None:
    """--tasks shows every value, beside the figures."""
    values = whole() | {"iWildCam": 0.1234}
    shown = run(lines(values, tmp_path / "r.jsonl"), "--tasks")
    assert "│ iWildCam               │ 0.1234 │" in shown


def test_json(tmp_path: Path) -> None:
    """--json has the figures unrounded, the values and what is missing."""
    values = {"ImageNet 1k": 1 / 3}
    (found,) = json.loads(run(lines(values, tmp_path / "r.jsonl"), "--allow-missing", "--json"))["models"]
    assert found["imagenet"] == found["average"] == 1 / 3
    assert found["vtab"] is None
    assert found["tasks_of"]["average"] == [1, 38]
    assert len(found["missing"]) == 37
    assert found["tasks"] == values


def test_unknown_columns_are_told(tmp_path: Path) -> None:
    """Columns that are no task are left out and named; those that name the model are not."""
    path = tmp_path / "r.csv"
    names = [task.name for task in AVERAGED]
    path.write_text(f"name,pretrained,{','.join(names)},Average perf.,fer2013\nm,p,{','.join(['0.5'] * 38)},0.9,0.1\n")
    assert "m p: not DataComp's, left out: 'fer2013'" in run(path)


def test_tasks_without_a_main_metric_do_not_count(tmp_path: Path) -> None:
    """FairFace and UTKFace are in the file and in no average, whatever they hold."""
    values = whole() | {"FairFace": 1.0}
    assert score(one(lines(values, tmp_path / "r.jsonl"))).figures["average"].value == 0.5
    assert isinstance(find("FairFace"), Task)
