"""The tasks of DataComp's evaluation: names, main metrics, and the groups that its figures average.

Source: ``tasklist.yml`` and ``aggregate_scores.py`` of github.com/mlfoundations/datacomp.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

Group = Literal["imagenet", "shifts", "vtab", "retrieval"]
RECALL = "mean_recall@1"
"""Mean of image and text recall at 1."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task: DataComp's key and name, its main metric (None: no part of any average), its group."""

    key: str
    name: str
    metric: str | None = "acc1"
    group: Group | None = None


_PER_CLASS = "mean_per_class_recall"
TASKS = (
    Task("vtab/caltech101", "Caltech-101", _PER_CLASS, "vtab"),
    Task("cifar10", "CIFAR-10"),
    Task("vtab/cifar100", "CIFAR-100", group="vtab"),
    Task("vtab/clevr_count_all", "CLEVR Counts", group="vtab"),
    Task("vtab/clevr_closest_object_distance", "CLEVR Distance", group="vtab"),
    Task("country211", "Country211"),
    Task("vtab/dtd", "Describable Textures", group="vtab"),
    Task("vtab/eurosat", "EuroSAT", group="vtab"),
    Task("fgvc_aircraft", "FGVC Aircraft", _PER_CLASS),
    Task("food101", "Food-101"),
    Task("gtsrb", "GTSRB"),
    Task("imagenet1k", "ImageNet 1k", group="imagenet"),
    Task("imagenet_sketch", "ImageNet Sketch", group="shifts"),
    Task("imagenetv2", "ImageNet v2", group="shifts"),
    Task("imagenet-a", "ImageNet-A", group="shifts"),
    Task("imagenet-o", "ImageNet-O", group="shifts"),
    Task("imagenet-r", "ImageNet-R", group="shifts"),
    Task("vtab/kitti_closest_vehicle_distance", "KITTI Vehicle Distance", group="vtab"),
    Task("mnist", "MNIST"),
    Task("objectnet", "ObjectNet", group="shifts"),
    Task("vtab/flowers", "Oxford Flowers-102", _PER_CLASS, "vtab"),
    Task("vtab/pets", "Oxford-IIIT Pet", _PER_CLASS, "vtab"),
    Task("voc2007", "Pascal VOC 2007"),
    Task("vtab/pcam", "PatchCamelyon", group="vtab"),
    Task("renderedsst2", "Rendered SST2"),
    Task("vtab/resisc45", "RESISC45", group="vtab"),
    Task("cars", "Stanford Cars"),
    Task("stl10", "STL-10"),
    Task("sun397", "SUN397", group="vtab"),
    Task("vtab/svhn", "SVHN", group="vtab"),
    Task("retrieval/flickr_1k_test_image_text_retrieval", "Flickr", RECALL, "retrieval"),
    Task("retrieval/mscoco_2014_5k_test_image_text_retrieval", "MSCOCO", RECALL, "retrieval"),
    Task("misc/winogavil", "WinoGAViL", "jaccard_score_10-12", "retrieval"),
    Task("wilds/iwildcam", "iWildCam", "F1-macro_all"),
    Task("wilds/camelyon17", "Camelyon17"),
    Task("wilds/fmow", "FMoW", "acc_worst_region"),
    Task("fairness/dollar_street", "Dollar Street", "acc_top5_wg"),
    Task("fairness/geode", "GeoDE", "acc_wg"),
    Task("fairness/fairface", "FairFace", None),
    Task("fairness/utkface", "UTKFace", None),
)
AVERAGED = tuple(task for task in TASKS if task.metric is not None)
"""The 38 tasks of the average."""
ALL_OF_FLICKR = "retrieval/flickr30k"
"""The key in DataComp's older list, whose task had all 31,014 images in place of 1,000."""
_MORE_NAMES = {"flickr30k": "Flickr", "mscococaptions": "MSCOCO"}
_PREFIX = re.compile(r"^(?:wds/)?(?:vtab|retrieval|misc|wilds|fairness)?[/-]?", re.IGNORECASE)


def find(name: str) -> Task | None:
    """The task that DataComp, open_clip or clip_benchmark calls so: key or name, in any case and spelling of words."""
    return _known().get(_plain(name)) or _known().get(_plain(_PREFIX.sub("", name, count=1)))


def of_group(group: Group) -> tuple[Task, ...]:
    """The tasks that a figure averages."""
    return tuple(task for task in AVERAGED if task.group == group)


@cache
def _known() -> dict[str, Task]:
    names = {spelt: task for task in TASKS for spelt in _spellings(task)}
    return names | {other: names[_plain(name)] for other, name in _MORE_NAMES.items()}


def _spellings(task: Task) -> Iterable[str]:
    return _plain(task.name), _plain(task.key), _plain(task.key.rpartition("/")[2])


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())
