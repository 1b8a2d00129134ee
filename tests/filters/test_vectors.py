"""Products of embeddings: the bits of a row are its own."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pairsieve.filters._products import fixed  # noqa: E402
from pairsieve.filters._vectors import product  # noqa: E402


@pytest.mark.parametrize("inner", [1, 50, 63, 255, 510, 767, 768])
@pytest.mark.parametrize("outer", [1, 2, 3, 10, 62])
def test_a_rows_bits_do_not_depend_on_its_place(inner: int, outer: int) -> None:
    """Widths that are no multiple of 4, and few columns, made rows differ by their place in a block."""
    rng = np.random.default_rng(inner * 100 + outer)
    rows = torch.from_numpy(rng.standard_normal((512, inner)).astype(np.float32))
    columns = torch.from_numpy(rng.standard_normal((inner, outer)).astype(np.float32))
    with fixed():
        whole = product(rows, columns)
        for shift in (1, 7, 300):
            assert torch.equal(product(rows.roll(shift, 0), columns).roll(-shift, 0), whole)
    assert torch.allclose(whole, (rows.double() @ columns.double()).float(), atol=1e-3)
