"""Instructions that the kernel of normal texts needs and numba does not have: on 64 bytes at a time."""

from typing import Any

from llvmlite import ir
from numba import types

from pairsieve.filters._jit import instruction

_BYTE, _WORD = ir.IntType(8), ir.IntType(64)
_BLOCK = ir.VectorType(_BYTE, 64)


def _all(value: int) -> Any:
    return ir.Constant(_BLOCK, [value] * 64)


def _load(builder: Any, place: Any) -> Any:
    return builder.load(builder.inttoptr(place, _BLOCK.as_pointer()), align=1, typ=_BLOCK)


def _store(builder: Any, block: Any, place: Any) -> None:
    builder.store(block, builder.inttoptr(place, _BLOCK.as_pointer()), align=1)


@instruction
def wide_of(_: Any, place: Any) -> Any:
    """Which of the 64 bytes at an address are not ASCII, as bits."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.icmp_signed("<", _load(builder, args[0]), _all(0)), _WORD)

    return types.uint64(types.int64), code


@instruction
def lowered(_: Any, place: Any, out: Any) -> Any:
    """Write 64 bytes of ASCII in lower case, a space for each that is no letter or digit; which these are, as bits."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def within(block: Any, first: str, count: int) -> Any:
            return builder.icmp_unsigned("<", builder.sub(block, _all(ord(first))), _all(count))

        block = _load(builder, args[0])
        case = builder.select(within(block, "A", 26), _all(0x20), _all(0))
        block = builder.or_(block, case)
        is_kept = builder.or_(within(block, "a", 26), within(block, "0", 10))
        _store(builder, builder.select(is_kept, block, _all(0x20)), args[1])
        return builder.bitcast(builder.not_(is_kept), _WORD)

    return types.uint64(types.int64, types.int64), code


@instruction
def copied(_: Any, place: Any, out: Any) -> Any:
    """Copy 64 bytes from one address to another."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _store(builder, _load(builder, args[0]), args[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code
