"""track small … xlarge: DataComp's settings, the shards that open_clip is given, and a training that is really run."""

import importlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import fsspec
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from pairsieve.pipelines.reshard import reshard
from pairsieve.pipelines.track_benchmarks import clip_benchmark
from pairsieve.pipelines.track_command import Plan, make_plan, train, write_record
from pairsieve.pipelines.track_scales import SCALES, Scale, Trainer, batch_of_gpu, scale_of, steps
from pairsieve.pipelines.track_scales_cli import scale_command
from pairsieve.pipelines.track_shards import Data, Source, find_data, find_source, ranges
from pairsieve.pipelines.track_tasks import find
from pairsieve.schemas.errors import MissingExtraError, PairsieveError, PoolError, UserError
from tests.s3 import S3Server
from tests.support_tars import sample, write_pool, write_subset, write_tar

pytest.importorskip("open_clip_train")

# scale_configs.py of github.com/mlfoundations/datacomp (commit c7d3441): batch, learning rate, samples, warmup, model,
# beta2 (None: open_clip's own, 0.98 for a ViT).
SCALE_CONFIGS: dict[str, tuple[int, float, int, int, str, float | None]] = {
    "debug": (1024, 1e-4, 128_000, 500, "ViT-B-32", None),
    "small": (4096, 5e-4, 12_800_000, 500, "ViT-B-32", None),
    "medium": (4096, 5e-4, 128_000_000, 500, "ViT-B-32", None),
    "large": (8192, 5e-4, 1_280_000_000, 500, "ViT-B-16", None),
    "xlarge": (90112, 1e-3, 12_800_000_000, 10000, "ViT-L-14", 0.95),
}
DATA = Data((Source("/d", ("/d/{00000..00009}.tar",), 10, 1000),))


def trainers() -> ModuleType:
    """open_clip's parser."""
    return importlib.import_module("open_clip_train.params")


@pytest.fixture(scope="module")
def loader() -> ModuleType:
    """open_clip's reading of training data; what its packages warn of when they are imported is theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("open_clip_train.data")


def parsed(plan: Plan) -> dict[str, Any]:
    """What open_clip's own parser makes of a command."""
    start = plan.command.index("open_clip_train.main") + 1
    return dict(vars(trainers().parse_args(list(plan.command[start:]))))


def plan_of(scale: str, out: Path, **settings: Any) -> Plan:
    """A plan with some settings of the trainer."""
    return make_plan(scale_of(scale), Trainer(**settings), DATA, str(out))


def named(folder: Path, *names: str) -> Path:
    """A folder of small tars with these names."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        write_tar(folder / name, {str(number): sample(number)})
    return folder


def refused(folder: Path | str) -> str:
    """What is said about a folder."""
    with pytest.raises(PoolError) as caught:
        find_source(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def invoke(scale: str, *arguments: object) -> str:
    """What the command prints, beside what it tells."""
    app = typer.Typer()
    app.command()(scale_command(scale))
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


# Settings


@pytest.mark.parametrize("name", SCALE_CONFIGS)
def test_settings_are_datacomps(name: str) -> None:
    """Each scale has the values of DataComp's own table, and bfloat16 at xlarge alone."""
    batch, lr, samples, warmup, model, beta2 = SCALE_CONFIGS[name]
    precision = "amp_bfloat16" if name == "xlarge" else "amp"
    assert SCALES[name] == Scale(name, model, batch, samples, lr, warmup, beta2 or 0.98, precision)
    assert list(SCALES) == list(SCALE_CONFIGS)


@pytest.mark.parametrize("name", SCALE_CONFIGS)
def test_open_clip_is_told_what_datacomp_tells_it(name: str, tmp_path: Path) -> None:
    """open_clip's parser makes the same settings of our command and of the flags of DataComp's train.py."""
    batch, lr, samples, warmup, model, beta2 = SCALE_CONFIGS[name]
    flags = f"""--save-frequency 0 --ddp-static-graph --local-loss --gather-with-grad --grad-checkpointing
        --train-data /d/{{00000..00009}}.tar --train-num-samples {samples // 5} --warmup {warmup}
        --dataset-type webdataset --precision {"amp_bfloat16" if name == "xlarge" else "amp"} --workers 4
        --model {model} --batch-size {batch // 8} --epochs 5 --lr {lr} --logs {tmp_path} --name {name}_scale
        --seed 0 --accum-freq 1 --log-every-n-steps 100 --save-most-recent --resume latest --dataset-resampled"""
    theirs = vars(trainers().parse_args([*flags.split(), *(["--beta2", str(beta2)] if beta2 else [])]))
    assert parsed(plan_of(name, tmp_path, gpus=8)) == theirs


def test_every_option_reaches_open_clip(tmp_path: Path) -> None:
    """Settings of the trainer arrive under open_clip's names."""
    data = Data((DATA.sources[0], Source("/e", ("/e/0.tar", "/e/2.tar"), 2, None)), (1.0, 0.5))
    trainer = Trainer(
        gpus=4,
        workers=6,
        accum_freq=2,
        checkpoints=8,
        save_frequency=1,
        log_every=10,
        seed=3,
        grad_clip_norm=1.0,
        imagenet_val="/val",
        report_to="wandb",
    )
    found = parsed(make_plan(scale_of("small"), trainer, data, str(tmp_path), "mine"))
    expected = {
        "train_data": "/d/{00000..00009}.tar::/e/0.tar::/e/2.tar",
        "train_data_upsampling_factors": "1::0.5::0.5",
        "batch_size": 512,
        "accum_freq": 2,
        "workers": 6,
        "epochs": 8,
        "train_num_samples": 1_600_000,
        "save_frequency": 1,
        "log_every_n_steps": 10,
        "seed": 3,
        "grad_clip_norm": 1.0,
        "imagenet_val": "/val",
        "report_to": "wandb",
        "name": "mine",
    }
    assert {key: found[key] for key in expected} == expected


@given(st.sampled_from(list(SCALES)), st.integers(1, 600), st.integers(1, 4))
def test_the_batch_is_cut_evenly_or_refused(name: str, gpus: int, accumulated: int) -> None:
    """The GPUs' parts make the whole batch; DataComp rounds them down in silence."""
    scale, trainer = scale_of(name), Trainer(gpus=gpus, accum_freq=accumulated)
    if scale.batch_size % (gpus * accumulated) == 0:
        assert batch_of_gpu(scale, trainer) * gpus * accumulated == scale.batch_size
    else:
        with pytest.raises(UserError, match="cannot be cut into"):
            batch_of_gpu(scale, trainer)


def test_the_refusal_names_a_number_that_fits() -> None:
    """The nearest number of parts is said."""
    with pytest.raises(UserError, match=r"4,096 cannot be cut into 6 \(1 nodes × 6 GPUs × 1 accumulated\); 4 parts"):
        batch_of_gpu(scale_of("small"), Trainer(gpus=6))


@pytest.mark.parametrize(("workers", "accumulated"), [(4, 1), (3, 1), (0, 1), (5, 4)])
def test_steps_are_those_of_open_clip(workers: int, accumulated: int, loader: ModuleType, tmp_path: Path) -> None:
    """The steps that are told are what open_clip makes of the command."""
    plan = plan_of("small", tmp_path, gpus=2, workers=workers, accum_freq=accumulated)
    args = trainers().parse_args(list(plan.command[plan.command.index("open_clip_train.main") + 1 :]))
    args.world_size = 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of more data loaders than this machine has CPUs
        info = loader.get_wds_dataset(args, None, is_train=True, tokenizer=None)
    assert steps(scale_of("small"), plan.trainer) == info.dataloader.num_batches // accumulated * args.epochs
    assert plan.record["steps"] == steps(scale_of("small"), plan.trainer)


def test_a_scale_that_is_none() -> None:
    """A slip is pointed at."""
    with pytest.raises(UserError, match="no scale 'smal'; did you mean 'small'"):
        scale_of("smal")


def test_fewer_samples_than_checkpoints(tmp_path: Path) -> None:
    """A trial of less than a sample a checkpoint is refused."""
    scale = Scale("debug", "ViT-B-32", 8, 4)
    with pytest.raises(UserError, match="--checkpoints 5: more than the 4 samples"):
        make_plan(scale, Trainer(), DATA, str(tmp_path))


@pytest.mark.parametrize(
    ("out", "name", "what"),
    [
        (" ", None, "--out is empty"),
        ("s3://bucket/x", None, "local or mounted folder"),
        ("a::b", None, "local or mounted folder"),
        ("o", "a/b", "no name of a folder"),
        ("o", "..", "no name of a folder"),
        ("o", "-x", "no name of a folder"),
    ],
)
def test_places_that_do_not_do(out: str, name: str | None, what: str) -> None:
    """Logs and checkpoints go to a folder of this machine."""
    with pytest.raises(UserError, match=what):
        make_plan(scale_of("small"), Trainer(), DATA, out, name)


def test_too_many_gaps_for_one_command(tmp_path: Path) -> None:
    """Linux bounds an argument: shards with thousands of gaps are refused in one line, not by the system."""
    data = Data((Source("/d", tuple(f"/d/{n:08d}.tar" for n in range(0, 20_000, 2)), 10_000, None),))
    with pytest.raises(UserError, match="too many runs of shards for one command"):
        make_plan(scale_of("small"), Trainer(), data, str(tmp_path))


@pytest.mark.parametrize("given", [None, "host", "host:", ":12802", "host:port"])
def test_nodes_need_a_place_to_meet(given: str | None, tmp_path: Path) -> None:
    """Several nodes without HOST:PORT are refused."""
    with pytest.raises(UserError, match="--rendezvous HOST:PORT"):
        make_plan(scale_of("small"), Trainer(nodes=2), DATA, str(tmp_path), None, given)


def test_evaluation_never_submits(tmp_path: Path) -> None:
    """The tools that evaluate are given the checkpoint, and never the switch that sends results away."""
    plan = plan_of("small", tmp_path)
    command = plan.record["evaluate"]["datacomp"]
    assert f"ViT-B-32 {plan.latest}" in command
    assert not [part for one in plan.record["evaluate"].values() for part in one if part.startswith("--submit")]


def test_clip_benchmark_is_asked_for_what_it_measures(tmp_path: Path) -> None:
    """31 tasks, all of accuracy or recall by class; their files are named as DataComp's download names them."""
    command = clip_benchmark("ViT-B-32", tmp_path / "c.pt", tmp_path)
    tasks = command[command.index("--dataset") + 1 :]
    assert len(tasks) == 31 and {"wds/vtab/pets", "wds/wilds/camelyon17", "wds/imagenet1k"} <= set(tasks)
    metrics = {task.metric for name in tasks if (task := find(name)) is not None}
    assert metrics == {"acc1", "mean_per_class_recall"}


# Shards


@given(st.sets(st.tuples(st.sampled_from(["/a/", "/a b/x-", "/c,d/"]), st.integers(0, 40), st.sampled_from([2, 5]))))
def test_ranges_are_exactly_the_shards(names: set[tuple[str, int, int]]) -> None:
    """Expanded as webdataset does it, the ranges are the given paths, no other and none twice."""
    expand = importlib.import_module("braceexpand").braceexpand
    paths = [f"{prefix}{number:0{width}d}.tar" for prefix, number, width in names]
    assert sorted(path for one in ranges(paths) for path in expand(one)) == sorted(set(paths))


def test_a_range_is_short() -> None:
    """Shards without a gap are one range, whatever their order."""
    assert ranges([f"/d/{n:05d}.tar" for n in reversed(range(1270))]) == ["/d/{00000..01269}.tar"]
    assert ranges(["/d/00003.tar", "/d/train.tar"]) == ["/d/train.tar", "/d/00003.tar"]


def test_open_clip_reads_the_same_list(loader: ModuleType, tmp_path: Path) -> None:
    """open_clip expands data and weights to each shard and its source's weight."""
    one, other = write_pool(tmp_path / "one", 3, 2), write_pool(tmp_path / "other", 4, 2)
    (other / "00000002.tar").unlink()
    (other / "00000002_stats.json").unlink()
    found = find_data(f"{one}::{other}", "1::0.25", allow_missing=True)
    urls, weights = loader.expand_urls(found.train_data, found.factors)
    assert urls == [str(path) for folder in (one, other) for path in sorted(folder.glob("*.tar"))]
    assert weights == [1.0] * 3 + [0.25] * 3
    assert loader.expand_urls(found.train_data)[0] == urls


def test_a_resharded_folder(tmp_path: Path) -> None:
    """The output of pairsieve reshard is taken whole, with its number of samples."""
    pool = write_pool(tmp_path / "pool", 4, 5)
    subset = write_subset(tmp_path / "s.npy", [1, 2, 2, 7, 11, 19])
    reshard(str(subset), str(pool), str(tmp_path / "out"), rows_per_shard=2)
    found = find_source(str(tmp_path / "out"))
    assert (found.shards, found.samples, found.notes) == (3, 6, ())
    assert found.ranges == (f"{tmp_path}/out/{{00000..00002}}.tar",)


@pytest.mark.parametrize("name", ["sizes.json", "meta.json"])
def test_a_shard_missing_at_the_end(name: str, tmp_path: Path) -> None:
    """What sizes.json or meta.json promises must be there: the numbering alone would not tell."""
    pool = write_pool(tmp_path / "pool", 4, 5)
    reshard(str(write_subset(tmp_path / "s.npy", range(8))), str(pool), str(tmp_path / "out"), rows_per_shard=2)
    for file in ("00003.tar", "00003_stats.json", "sizes.json" if name == "meta.json" else "meta.json"):
        (tmp_path / "out" / file).unlink()
    assert "missing or unfinished: 00003.tar; open_clip would only log that" in refused(tmp_path / "out")
    assert find_source(str(tmp_path / "out"), allow_missing=True).shards == 3


def test_stale_shards(tmp_path: Path) -> None:
    """A tar that sizes.json does not list is of another job, and training would read it."""
    folder = named(tmp_path / "d", "00000.tar", "00001.tar")
    (folder / "sizes.json").write_text('{"00000.tar": 1}')
    assert "00001.tar: the files beside it know nothing of it" in refused(folder)


def test_writing_that_was_stopped(tmp_path: Path) -> None:
    """The folder of a reshard or export that did not come to its end is refused."""
    folder = named(tmp_path / "d", "00000.tar")
    (folder / "_job.json").write_text("{}")
    assert "not all written; run the same pairsieve command again" in refused(folder)


def test_a_gap(tmp_path: Path) -> None:
    """A number that is missing between others is named; with allow_missing the ranges leave it out."""
    folder = named(tmp_path / "d", "00000.tar", "00001.tar", "00003.tar")
    assert "missing or unfinished: 00002.tar" in refused(folder)
    found = find_source(str(folder), allow_missing=True)
    assert found.ranges == (f"{folder}/{{00000..00001}}.tar", f"{folder}/00003.tar")
    assert found.samples is None


def test_an_unfinished_download(tmp_path: Path) -> None:
    """img2dataset writes a shard's stats last: a tar without them may be half a tar, and is named."""
    folder = write_pool(tmp_path / "d", 3, 2)
    (folder / "00000002_stats.json").unlink()
    assert "missing or unfinished: 00000002.tar" in refused(folder)
    found = find_source(str(folder), allow_missing=True)
    assert (found.shards, found.samples) == (2, 4)


def test_a_glob_is_what_is_meant(tmp_path: Path) -> None:
    """Of a glob only the numbering tells: shards that it leaves out are not missing."""
    folder = write_pool(tmp_path / "d", 4, 2)
    found = find_source(f"{folder}/0000000[12].tar")
    assert (found.ranges, found.shards) == ((f"{folder}/{{00000001..00000002}}.tar",), 2)


def test_shards_in_part_folders(tmp_path: Path) -> None:
    """Folders part_* are read, each with its own numbering."""
    for part in ("part_0", "part_1"):
        write_pool(tmp_path / "d" / part, 2, 3)
    found = find_source(str(tmp_path / "d"))
    assert (len(found.ranges), found.shards, found.samples) == (2, 4, 12)
    (tmp_path / "d" / "part_1" / "00000001.tar").unlink()
    assert "missing or unfinished: part_1/00000001.tar" in refused(tmp_path / "d")


def test_uneven_shards_are_told(tmp_path: Path) -> None:
    """open_clip draws shards, not samples: a short shard's samples are seen more often."""
    folder = named(tmp_path / "d", "00000.tar", "00001.tar")
    (folder / "sizes.json").write_text('{"00000.tar": 1000, "00001.tar": 10}')
    assert "10 to 1,000 samples" in find_source(str(folder)).notes[0]
    assert "100 times" in find_source(str(folder)).notes[0]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("sizes.json", "[1]", "sizes.json: holds no"),
        ("sizes.json", '{"00000.tar": -1}', "sizes.json: holds no"),
        ("sizes.json", '{"00000.tar": true}', "sizes.json: holds no"),
        ("sizes.json", "{", "sizes.json: is not JSON"),
        ("sizes.json", "[" * 100_000, "sizes.json: is not JSON"),
        ("meta.json", "{}", "tells no count and format"),
        ("meta.json", '{"output_shard_count": 1, "output_shard_format": "{:0999999999d}.tar"}', "no count and format"),
        ("meta.json", '{"output_shard_count": 99999999, "output_shard_format": "{:05d}.tar"}', "no count and format"),
        ("meta.json", '{"output_shard_count": 1, "output_shard_format": "{0.__class__}.tar"}', "no count and format"),
    ],
)
def test_broken_files_beside(name: str, content: str, what: str, tmp_path: Path) -> None:
    """Files beside the tars that are not what they should be are named."""
    folder = named(tmp_path / "d", "00000.tar")
    (folder / name).write_text(content)
    assert what in refused(folder)


def test_stats_that_tell_nothing(tmp_path: Path) -> None:
    """A stats file without a count leaves the number of samples unknown."""
    folder = write_pool(tmp_path / "d", 2, 2)
    (folder / "00000001_stats.json").write_text('{"successes": null}')
    assert find_source(str(folder)).samples is None


@pytest.mark.parametrize("odd", ["a{1,2}", "a$HOME", "a\\b", "a\nb"])
def test_paths_that_mean_something_else(odd: str, tmp_path: Path) -> None:
    """webdataset expands braces and variables in paths: such folders are refused."""
    folder = named(tmp_path / odd, "00000.tar")
    with pytest.raises(PoolError, match="as a pattern; link the folder"):
        find_source(str(folder))


def test_parquet_is_not_trained_on(tmp_path: Path) -> None:
    """Parquet shards are answered with the command that makes tars of them."""
    pool = write_pool(tmp_path / "pool", 1, 4)
    reshard(str(write_subset(tmp_path / "s.npy", range(4))), str(pool), str(tmp_path / "out"), format="parquet")
    assert "pairsieve export webdataset" in refused(tmp_path / "out")


def test_folders_without_shards(tmp_path: Path) -> None:
    """An empty or missing folder is one line."""
    assert "no .tar or .parquet file in this folder" in refused(tmp_path)
    assert "no such file" in refused(tmp_path / "none")


@pytest.mark.parametrize(
    ("data", "weights", "what"),
    [
        ("A::", None, "an empty name"),
        ("A::B", "1", "1 weights for 2 folders"),
        ("A", "0", "'0' is no weight"),
        ("A", "nan", "'nan' is no weight"),
        ("A", "much", "'much' is no weight"),
    ],
)
def test_weights_that_do_not_fit(data: str, weights: str | None, what: str) -> None:
    """Names and weights that do not go together are told before anything is looked for."""
    with pytest.raises(UserError, match=what):
        find_data(data, weights)


def test_shards_on_s3(s3: S3Server) -> None:
    """Shards of a bucket are listed there, and read by the AWS command line as in DataComp's training."""
    fs = fsspec.filesystem("s3")
    fs.mkdir("tars")
    for number in (0, 1, 2):
        fs.pipe_file(f"tars/d/{number:05d}.tar", b"x")
    fs.pipe_file("tars/d/sizes.json", b'{"00000.tar": 2, "00001.tar": 2, "00002.tar": 2}')
    found = find_source("s3://tars/d")
    assert found.ranges == ("pipe:aws s3 cp s3://tars/d/{00000..00002}.tar -",)
    assert found.samples == 6
    fs.rm("tars/d/00001.tar")
    assert "missing or unfinished: 00001.tar" in refused("s3://tars/d")


def test_names_on_s3_that_a_shell_would_run(s3: S3Server) -> None:
    """The pipe goes through a shell: a name that means something to it is refused."""
    fs = fsspec.filesystem("s3")
    fs.mkdir("odd")
    fs.pipe_file("odd/d;id/00000.tar", b"x")
    assert "s3:// URLs of plain letters" in refused("s3://odd/d;id")


# The command and the record


def test_print_writes_the_record(tmp_path: Path) -> None:
    """--print: the command alone on standard output, the record in the folder, nothing run."""
    data = write_pool(tmp_path / "d", 2, 2)
    printed = invoke("medium", "--data", data, "--out", tmp_path / "o", "--nproc-per-node", 8, "--print")
    record = json.loads((tmp_path / "o/medium_scale/track.json").read_text())
    assert printed.split()[:2] == ["torchrun", "--nproc-per-node"] and printed.count("\n") == 1
    assert record["command"][0] == "torchrun" and record["differs_from_datacomp"] == []
    assert (record["batch_of_gpu"], record["samples"], record["data"][0]["samples"]) == (512, 128_000_000, 4)


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    """--dry-run shows the record and the command."""
    data = write_pool(tmp_path / "d", 2, 2)
    printed = invoke("small", "--data", data, "--out", tmp_path / "o", "--dry-run", "--warmup", 3)
    record, command = printed.rsplit("}\n", 1)
    assert json.loads(record + "}")["differs_from_datacomp"] == ["warmup"]
    assert "--warmup 3" in command
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--precision", "int8"), "--precision int8: there are amp"),
        (("--report-to", "mail"), "there are wandb, tensorboard"),
        (("--device", "tpu"), "there are cuda, cpu"),
        (("--dry-run", "--print"), "leave --print out"),
    ],
)
def test_options_that_are_none(arguments: tuple[str, ...], what: str, tmp_path: Path) -> None:
    """Values that open_clip does not know are refused here."""
    with pytest.raises(UserError, match=what):
        invoke("small", "--data", "d", "--out", tmp_path, *arguments)


def test_without_gpus_one_line(tmp_path: Path) -> None:
    """Where torch finds fewer GPUs than asked for, that is said, and nothing is written."""
    plan = plan_of("small", tmp_path / "o", gpus=64)
    with pytest.raises(UserError, match=r"small: 64 GPUs asked for, \d+ found by torch; .*--print"):
        train(plan)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("package", "settings", "what"),
    [
        ("webdataset", {}, r"needs webdataset: pip install 'open_clip_torch\[training\]'"),
        ("wandb", {"report_to": "wandb"}, "--report-to wandb: pip install wandb"),
    ],
)
def test_without_its_packages(
    package: str, settings: dict[str, str], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that the training needs and that is not installed is named with the command that installs it."""
    monkeypatch.setitem(sys.modules, package, None)  # Python's own way of saying that there is none
    with pytest.raises(MissingExtraError, match=what):
        train(plan_of("small", tmp_path, **settings))


def test_several_processes_on_a_cpu(tmp_path: Path) -> None:
    """open_clip cannot train on CPUs in several processes: refused before it would fail."""
    with pytest.raises(UserError, match="--device cpu: open_clip trains in one process there, not 2"):
        train(plan_of("small", tmp_path, gpus=2, device="cpu"))


def test_another_training_is_not_continued(tmp_path: Path) -> None:
    """open_clip resumes from any checkpoint in its folder: one of other settings is refused; other GPUs are not."""
    write_record(plan_of("small", tmp_path))
    (tmp_path / "small_scale/checkpoints").mkdir()
    (tmp_path / "small_scale/checkpoints/epoch_latest.pt").touch()
    write_record(plan_of("small", tmp_path, gpus=4))
    with pytest.raises(UserError, match=r"holds another training \(seed 0, not 1\)"):
        write_record(plan_of("small", tmp_path, seed=1))
    (tmp_path / "small_scale/track.json").write_text("{}")
    with pytest.raises(UserError, match="not readable"):
        write_record(plan_of("small", tmp_path))
    (tmp_path / "small_scale/track.json").unlink()
    with pytest.raises(UserError, match="checkpoints of nobody knows what"):
        write_record(plan_of("small", tmp_path))


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_two_nodes_meet(tmp_path: Path) -> None:
    """The same command on two nodes, run by torchrun: processes of one world, each with open_clip's arguments."""
    (tmp_path / "stand_in.py").write_text(
        "import json, os, pathlib, sys\n"
        "from open_clip_train.params import parse_args\n"
        "found = vars(parse_args(sys.argv[1:])) | {'world': int(os.environ['WORLD_SIZE'])}\n"
        "pathlib.Path(f\"rank{os.environ['RANK']}.json\").write_text(json.dumps(found))\n"
    )
    plan = make_plan(scale_of("xlarge"), Trainer(nodes=2), DATA, str(tmp_path), "a b", f"127.0.0.1:{free_port()}")
    program = str(Path(sys.executable).with_name("torchrun"))
    command = [program, *("stand_in" if part == "open_clip_train.main" else part for part in plan.command[1:])]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    nodes = [subprocess.Popen(command, cwd=tmp_path, env=environment) for _ in range(2)]
    assert [node.wait(120) for node in nodes] == [0, 0]
    found = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1] == parsed(plan) | {"world": 2}


# A training


def picture(number: int) -> bytes:
    """A small JPEG of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (40, 32), (number * 37 % 256, number * 91 % 256, number * 13 % 256)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three tars of eight pairs, and a CLIP of 0.8 million weights."""
    root = tmp_path_factory.mktemp("trial")
    data, model = root / "data", root / "vit-tiny"
    data.mkdir()
    model.mkdir()
    for shard in range(3):
        numbers = range(shard * 8, shard * 8 + 8)
        pairs = {str(n): {"jpg": picture(n), "txt": f"colour {n}".encode()} for n in numbers}
        write_tar(data / f"{shard:08d}.tar", pairs)
    (data / "sizes.json").write_text(json.dumps({f"{shard:08d}.tar": 8 for shard in range(3)}))
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}}
    (model / "open_clip_config.json").write_text(json.dumps(config))
    yield root
    shutil.rmtree(root)


def trial_plan(trial: Path, name: str, **settings: Any) -> Plan:
    """A training of four steps in two checkpoints, on the CPU."""
    scale = Scale("debug", f"local-dir:{trial / 'vit-tiny'}", 8, 32, 1e-4, warmup=1, precision="fp32")
    always: dict[str, Any] = {"workers": 0, "checkpoints": 2, "device": "cpu", "log_every": 1, "save_frequency": 1}
    return make_plan(scale, Trainer(**always | settings), find_data(str(trial / "data")), str(trial / "out"), name)


def weights(path: Path) -> dict[str, Any]:
    """A checkpoint's epoch and weights."""
    torch = importlib.import_module("torch")
    return dict(torch.load(path, weights_only=True))


def test_a_training_and_its_continuation(trial: Path) -> None:
    """open_clip trains to the last checkpoint; stopped after the first one, the same call goes on from there."""
    plan = trial_plan(trial, "whole")
    assert train(plan)
    log = (plan.folder / "out.log").read_text()
    assert log.count("Train Epoch: ") == plan.record["steps"] == 4
    folder = plan.folder / "checkpoints"
    first = weights(folder / "epoch_1.pt")["state_dict"]["visual.conv1.weight"]
    assert not first.equal(weights(folder / "epoch_2.pt")["state_dict"]["visual.conv1.weight"])
    shutil.copy(folder / "epoch_1.pt", plan.latest)
    plan.last.unlink()
    assert train(plan)
    log = (plan.folder / "out.log").read_text()
    assert "resuming checkpoint" in log and log.count("Train Epoch: ") == 6
    assert weights(plan.last)["epoch"] == 2
    assert not train(plan)


def test_a_training_that_fails(trial: Path) -> None:
    """What open_clip cannot do ends with one line that says where its log is."""
    plan = trial_plan(trial, "failing", imagenet_val=str(trial / "none"))
    with pytest.raises(PairsieveError, match=r"exit code 1 before epoch_2\.pt; .*/failing/out\.log says why"):
        train(plan)


def test_a_training_that_is_stopped(trial: Path) -> None:
    """SIGTERM ends the command within its grace, and the trainer with it."""
    plan = trial_plan(trial, "stopped")
    options = "--workers 0 --checkpoints 48 --precision fp32 --device cpu --batch-size 8 --train-num-samples 48000"
    code = "import sys, typer\nfrom pairsieve.pipelines.track_scales_cli import scale_command\n"
    code += "app = typer.Typer()\napp.command()(scale_command('debug'))\napp()"
    given = ["--data", str(trial / "data"), "--out", str(trial / "out"), "--name", "stopped", *options.split()]
    command = [sys.executable, "-c", code, *given, "--model", plan.record["model"]]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    log = plan.folder / "out.log"
    while not (log.exists() and "Start epoch" in log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=90)
    assert process.returncode == 143
    assert "stopped; the same command continues" in told
    size = log.stat().st_size
    time.sleep(0.5)
    assert log.stat().st_size == size
