"""Numbers as people read them."""

from __future__ import annotations

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def size_text(size: float) -> str:
    """A number of bytes with the unit that suits it: 512 Bytes, 1.5 GiB."""
    if abs(size) < 1024:
        return f"{size:.0f} Byte" + ("" if round(size) == 1 else "s")
    unit = 0
    size /= 1024
    while abs(size) >= 1024 and unit + 1 < len(_UNITS):
        size /= 1024
        unit += 1
    return f"{size:.1f} {_UNITS[unit]}"


def amount_text(count: int, unit: str) -> str:
    """A number of things: 1 file, 2 files."""
    return f"{count} {unit}" + ("" if count == 1 else "s")


def count_text(count: int) -> str:
    """A count of parameters: 7.2B, 13M, 512."""
    for limit, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= limit:
            return f"{count / limit:.3g}{unit}"
    return str(count)
