"""Read results of single tasks: DataComp's, clip_benchmark's, and wide tables as open_clip publishes them.

======================  ==============================================================================
``.jsonl``              DataComp's ``eval_results.jsonl``: ``{"key", "dataset", "metrics": {…}}`` a line
``.json``               clip_benchmark's: one such object (also a list), with ``model``, ``pretrained``
``.csv`` with dataset   clip_benchmark's ``build``: a row for each task and model, a column for each metric
other ``.csv``          a row for each model, a column for each task
======================  ==============================================================================

DataComp's files are one model each.  clip_benchmark's are put together by model, over all files.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pairsieve.pipelines.track_score import Results
from pairsieve.pipelines.track_tasks import ALL_OF_FLICKR, RECALL, Task, find
from pairsieve.schemas.errors import UserError

LARGEST = 67_108_864
"""Bytes that a file of results may have: those of all tasks are 100 KB."""
KINDS = (".jsonl", ".json", ".csv")
_MAIN = "main_metric"
_ZERO_SHOT = ("zeroshot_classification", "zeroshot_retrieval")
_NAMES = ("name", "model", "pretrained", "model_fullname", "label")
"""Columns of a wide table that name the model."""
_ABOUT = (*_NAMES, "language", "task", "dataset", "params (m)", "flops (b)")


def read(paths: Sequence[str]) -> list[Results]:
    """The models of some files or folders, in order; raises ``UserError`` with file and line."""
    models: dict[str, Results] = {}
    for path in dict.fromkeys(file.resolve() for given in paths for file in _files(given)):
        {".jsonl": _read_lines, ".json": _read_object}.get(path.suffix, _read_table)(path, models)
    if not models:
        raise UserError(f"{', '.join(paths)}: no results in it; evaluate.py of DataComp writes eval_results.jsonl")
    return list(models.values())


def _files(given: str) -> list[Path]:
    """A file, or the files of results directly in a folder."""
    path = Path(given)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in KINDS and file.is_file())
        found = [path / "eval_results.jsonl"] if path / "eval_results.jsonl" in found else found
        if not found:
            raise UserError(f"{given}: no {', '.join(KINDS)} in this folder; name the files of results")
        return found
    if not path.is_file():
        raise UserError(f"{given}: no such file; name a file of results, or a folder of them")
    if path.suffix not in KINDS:
        raise UserError(f"{given}: there are {', '.join(KINDS)}; name a file of results")
    return [path]


def _text(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path}: {path.stat().st_size:,} bytes are no results of tasks; name the right file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not text in UTF-8; name a file of results") from None


def _read_lines(path: Path, models: dict[str, Results]) -> None:
    """DataComp's file: one model, named by its folder."""
    text = _text(path)
    label = path.resolve().parent.name if path.stem == "eval_results" else path.stem
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"{path}:{number}"
            record = _record(_parsed(line, place), place)
            _add(_model(models, str(path.resolve()), label, str(path)), record, place)


def _read_object(path: Path, models: dict[str, Results]) -> None:
    """clip_benchmark's file."""
    found = _parsed(_text(path), str(path))
    for one in found if isinstance(found, list) else [found]:
        record = _record(one, str(path))
        label = " ".join(str(record[name]) for name in ("model", "pretrained") if record.get(name)) or path.stem
        _add(_model(models, f"benchmark {label}", label, str(path)), record, str(path))


def _read_table(path: Path, models: dict[str, Results]) -> None:
    rows = list(_rows(path))
    is_long = bool(rows) and "dataset" in {name.strip().lower() for name in rows[0][1]}
    for place, row in rows:
        (_add_long if is_long else _add_wide)(path, place, row, models)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row with its place; a column that comes twice, and rows of another width, are refused."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    header: list[str] = []
    try:
        for row in reader:
            place = f"{path}:{reader.line_num}"
            if not header:
                header = row
                _check_header(header, place)
            elif row:
                if len(row) != len(header):
                    raise UserError(f"{place}: {len(row)} fields, not the {len(header)} of the header; mend the file")
                yield place, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: {error}; is it a CSV with commas?") from None


def _check_header(header: Sequence[str], place: str) -> None:
    seen: dict[str, str] = {}
    for column in header:
        task = find(column)
        name = task.name if task is not None else column
        if name in seen:
            raise UserError(f"{place}: {column!r} is there twice ({seen[name]!r}); keep one column")
        seen[name] = column


def _add_wide(path: Path, place: str, row: Mapping[str, str], models: dict[str, Results]) -> None:
    about = {name.strip().lower(): value for name, value in row.items()}
    label = " ".join(filter(None, (about.get(name, "") for name in _NAMES[:3]))) or about.get("model_fullname", "")
    label = label or next((v for n, v in row.items() if find(n) is None and v and _number(v) is v), place)
    results = _model(models, place, label, place)
    for name, value in row.items():
        if (task := find(name)) is not None:
            results.add(task, _number(value), place)
        elif not _is_about(name):
            results.unknown.append(name)


def _is_about(column: str) -> bool:
    plain = column.strip().lower()
    return plain in _ABOUT or plain.startswith("average")


def _add_long(path: Path, place: str, row: Mapping[str, str], models: dict[str, Results]) -> None:
    about = {name.strip().lower(): value for name, value in row.items()}
    label = " ".join(filter(None, (about.get(n, "") for n in ("model", "pretrained")))) or path.stem
    metrics = {name: _number(value) for name, value in about.items() if name not in _ABOUT}
    _add(_model(models, f"benchmark {label}", label, str(path)), {**about, "metrics": metrics}, place)


def _model(models: dict[str, Results], key: str, label: str, place: str) -> Results:
    shown = "".join(sign if sign.isprintable() else "?" for sign in label)[:120]
    return models.setdefault(key, Results(shown, place))


def _number(text: str) -> object:
    """A number where the text is one, None where it is empty, else the text itself."""
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{place}: is not JSON; is the file cut off? evaluate this task again") from None


def _record(found: Any, place: str) -> dict[str, Any]:
    """One task's result, of the right shape."""
    is_record = isinstance(found, dict) and isinstance(found.get("metrics"), dict)
    if not is_record or not isinstance(found.get("dataset"), str):
        raise UserError(f'{place}: holds no {{"dataset": …, "metrics": {{…}}}}; name a file of results')
    return dict(found)


def _add(results: Results, record: Mapping[str, Any], place: str) -> None:
    """The main metric of a record: as DataComp computed it, else the metric that counts for the task."""
    name, key = record["dataset"], record.get("key")
    task = (find(key) if isinstance(key, str) else None) or find(name)
    if task is None:
        results.unknown.append(name)
    elif record.get("task") not in (None, "", *_ZERO_SHOT):
        results.skip(task, f"{record['task']}, not zero-shot", place)
    elif task.metric is not None:
        if key == ALL_OF_FLICKR:
            results.notes.append("Flickr is of all 31,014 images (DataComp's older list), not of 1,000")
        _add_value(results, task, task.metric, record["metrics"], place)


def _add_value(results: Results, task: Task, metric: str, metrics: Mapping[str, Any], place: str) -> None:
    own = _metric(metrics, metric)
    main = metrics.get(_MAIN, own)
    if own is not None and main is not None and main != own:
        results.notes.append(f"{task.name}: its {_MAIN} is {main}, its {metric} {own}; the first counts")
    if main is None:
        results.skip(task, f"no {metric}", place)
    else:
        results.add(task, main, place)


def _metric(metrics: Mapping[str, Any], name: str) -> Any:
    """A metric; the mean recall from its two sides where it is not there itself, as DataComp computes it."""
    text, image = metrics.get("text_retrieval_recall@1"), metrics.get("image_retrieval_recall@1")
    if name == RECALL and name not in metrics and isinstance(text, float) and isinstance(image, float):
        return 0.5 * (text + image)
    return metrics.get(name, metrics.get(name.lower()))
