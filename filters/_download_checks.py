"""Checks of what a recipe gives ``download``: addresses, and the types of columns that it names."""

import ipaddress

import pyarrow as pa


def name_server(text: str) -> str:
    """Check a name server: an IP address, perhaps with a port; raises ``ValueError``."""
    host, _, port = text.rpartition(":") if text.count(":") == 1 else (text, "", "")
    ipaddress.ip_address(host or text)
    if port and not (port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r}: the port is no number from 1 to 65535")
    return text


def network(text: str) -> str:
    """Check a CIDR network; ``ipaddress`` words the error, a ``ValueError``."""
    return str(ipaddress.ip_network(text))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def are_boxes(kind: pa.DataType) -> bool:
    """Whether a column holds lists of lists of numbers."""
    inner = kind.value_type if _is_list(kind) else None
    number = inner.value_type if inner is not None and _is_list(inner) else None
    return number is not None and bool(pa.types.is_floating(number) or pa.types.is_integer(number))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
