"""The kept uids as DataComp's subset file: sorted ``u8,u8`` records in ``.npy``, written in bounded memory."""

import numpy as np

from pairsieve.pipelines.groups import load, workshop
from pairsieve.pipelines.store import Store
from pairsieve.schemas import uid

MEMORY = "1GB"
"""Of the sort; what does not fit goes to disk."""


def write_subset(store: Store, name: str, kept: int) -> None:
    """Write the file of ``kept`` records; hex order is the order of the unsigned halves.

    A uid that is kept twice stands there twice, which DataComp reads as "use it twice".
    """
    files = [store.url(f"verdicts/{n}") for n in store.names("verdicts", ".parquet")]
    with workshop(store, MEMORY) as con, store.create(name, exclusive=False) as out:
        header = {"descr": np.lib.format.dtype_to_descr(uid.PAIR_DTYPE), "fortran_order": False, "shape": (kept,)}
        np.lib.format.write_array_header_1_0(out, header)
        load(con, "kept", files, "uid", "dropped_by IS NULL")
        for batch in con.sql("SELECT uid FROM kept ORDER BY uid").to_arrow_reader(1_000_000):
            out.write(uid.to_numbers(batch["uid"]).tobytes())
