"""The kept uids as DataComp's subset file: sorted ``u8,u8`` records in ``.npy``, written in bounded memory."""

import numpy as np

from pairsieve.pipelines.groups import workshop
from pairsieve.pipelines.store import Store
from pairsieve.schemas import uid

_SQL = "SELECT uid FROM read_parquet($files, hive_partitioning = false) WHERE dropped_by IS NULL ORDER BY uid"


def write_subset(store: Store, name: str, kept: int) -> None:
    """Write the file of ``kept`` records; hex order is the order of the unsigned halves.

    A uid that is kept twice stands there twice, which DataComp reads as "use it twice".
    """
    files = [store.url(f"verdicts/{n}") for n in store.names("verdicts", ".parquet")]
    with workshop(store) as con, store.create(name, exclusive=False) as out:
        header = {"descr": np.lib.format.dtype_to_descr(uid.PAIR_DTYPE), "fortran_order": False, "shape": (kept,)}
        np.lib.format.write_array_header_1_0(out, header)
        for batch in con.sql(_SQL, params={"files": files}).to_arrow_reader(1_000_000):
            out.write(uid.to_numbers(batch["uid"]).tobytes())
