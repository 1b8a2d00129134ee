"""Compiled kernels: numba's ``njit`` with a cache on disk where one can be written.

numba is imported here, at 0.3 s a process: import this module from ``open`` only, through the kernels.
A kernel is compiled once for each machine and change of its source, then loaded in milliseconds: from
``__pycache__`` beside it, or ``~/.cache/numba`` where the package is read-only, or ``NUMBA_CACHE_DIR``.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba.extending import intrinsic

_LEAN: dict[str, Any] = {"error_model": "numpy", "no_cfunc_wrapper": True}
"""Compiles a sixth faster: divisions as C has them, and no second entry for C."""
F = TypeVar("F", bound=Callable[..., object])


def kernel(signature: object) -> Callable[[F], F]:
    """Compile a function for one signature, without the GIL; from the cache where it is there.

    A cache that cannot be read or written (a read-only or full disk, a damaged file) costs the time of
    compiling, never the run.
    """

    def compiled(function: F) -> F:
        try:
            found: F = numba.njit(signature, cache=True, nogil=True, **_LEAN)(function)
        except Exception:  # numba raises RuntimeError where no folder is writable; damaged files raise anything
            found = numba.njit(signature, nogil=True, **_LEAN)(function)
        return found

    return compiled


def inlined(function: F) -> F:
    """Part of a kernel: compiled with those that call it."""
    made: F = numba.njit(nogil=True, no_cpython_wrapper=True, **_LEAN)(function)
    return made


def instruction(function: Callable[..., object]) -> Callable[..., Any]:
    """Part of a kernel that emits LLVM code itself.

    ``function`` takes the typing context and the types of the arguments; it returns the signature and the
    function that builds the code.
    """
    made: Callable[..., Any] = intrinsic(function)
    return made
