"""Group filters that keep the best pair by an expression of the user's."""

from collections.abc import Mapping

import pyarrow as pa
from pydantic import Field

from pairsieve.filters._expressions import check_type, columns_of, order_list
from pairsieve.filters.base import GroupFilter, Threshold


class Preferred(GroupFilter):
    """The setting ``prefer`` with what follows from it.  ``check`` of a filter calls ``check_preferred``."""

    prefer: Threshold[str] = Field(
        "", description="DuckDB ORDER BY list; the first pair of a group is the best, ties go to the smallest uid"
    )

    def preferable(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        """The columns that ``prefer`` may name."""
        return dict(available)

    def keep_inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        if not self.prefer:
            return ()
        names = columns_of(self.prefer, self.preferable(available), order=True)
        return tuple(name for name in names if name in available)

    def check_preferred(self, available: Mapping[str, pa.DataType]) -> None:
        """Refuse a ``prefer`` that is no list of expressions over these columns."""
        if not self.prefer:
            return
        known = self.preferable(available)
        own = self.outputs(available).keys() - known.keys()
        for name in columns_of(self.prefer, {**known, **self.outputs(available)}, order=True) if own else ():
            if name in own:
                text = "is measured by this step to say which pairs are alike, not which is better"
                raise ValueError(f"prefer: {name!r} {text}; name columns of the pool or of steps above")
        check_type(self.prefer, known, order=True)

    def order(self) -> str:
        return order_list(self.prefer) if self.prefer else ""
