"""Options of img2dataset that are no settings of ``download``, each with what to write instead."""

from collections.abc import Mapping

_POOL = "the list of URLs is the pool: write 'pool: {{urls: {{path: ..., {0}}}}}'"
_KEPT = "every column of the pool is kept; leave it out"
_RUN = "a run continues where it was stopped, shard by shard; leave it out"
_ENGINE = "machines are chosen by the command: pairsieve run --engine, --ray-address, --workers"

ELSEWHERE: Mapping[str, str] = {
    "url_list": _POOL.format("url_col: url"),
    "input_format": _POOL.format("format: csv"),
    "url_col": _POOL.format("url_col: url"),
    "caption_col": _POOL.format("caption_col: text"),
    "number_sample_per_shard": _POOL.format("shard_rows: 10000"),
    "save_additional_columns": _KEPT,
    "output_folder": "the run's folder is given to the command: pairsieve run recipe.yaml --out runs/x",
    "output_format": "img2dataset's files are an export of the run: pairsieve export img2dataset RUN OUT",
    "oom_shard_count": "it is an option of pairsieve export img2dataset: --oom-shard-count",
    "processes_count": "workers are chosen by the command: pairsieve run --workers",
    "thread_count": "set concurrency, the URLs that one worker fetches at a time",
    "distributor": _ENGINE,
    "subjob_size": _ENGINE,
    "max_shard_retry": f"a shard whose worker dies is tried again by itself, and {_RUN}",
    "incremental_mode": _RUN,
    "enable_wandb": "outcomes are counted by the run: pairsieve hosts, pairsieve query",
    "wandb_project": "outcomes are counted by the run: pairsieve hosts, pairsieve query",
    "ignore_ssl_certificate": "certificates are always verified; a site without a valid one is tls_failure",
}
