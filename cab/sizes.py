"""Sizes in memory as text."""


def size_text(bytes_: float) -> str:
    """`1.5 GiB`, `640 KiB`, `12 bytes`."""
    for scale, unit in ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB")):
        if bytes_ >= scale * 0.9995:  # of 1,023.9 KiB three digits are 1 MiB
            value = bytes_ / scale
            return f"{value:,.0f} {unit}" if value >= 999.5 else f"{value:.3g} {unit}"
    return f"{bytes_:,.0f} bytes"
