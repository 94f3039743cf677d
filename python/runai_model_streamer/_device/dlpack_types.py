"""The types of elements, as DLPack describes them. Needs no torch."""

from __future__ import annotations

# https://dmlc.github.io/dlpack/latest/c_api.html
_INT, _UINT, _FLOAT, _BFLOAT, _COMPLEX, _BOOL = 0, 1, 2, 4, 5, 6
BYTE = _UINT
DLPACK_TYPES = {
    "bool": (_BOOL, 8, 1),
    "uint8": (_UINT, 8, 1),
    "int8": (_INT, 8, 1),
    "uint16": (_UINT, 16, 1),
    "int16": (_INT, 16, 1),
    "float16": (_FLOAT, 16, 1),
    "bfloat16": (_BFLOAT, 16, 1),
    "uint32": (_UINT, 32, 1),
    "int32": (_INT, 32, 1),
    "float32": (_FLOAT, 32, 1),
    "complex64": (_COMPLEX, 64, 1),
    "uint64": (_UINT, 64, 1),
    "int64": (_INT, 64, 1),
    "float64": (_FLOAT, 64, 1),
    "float8_e4m3fn": (10, 8, 1),
    "float8_e4m3fnuz": (11, 8, 1),
    "float8_e5m2": (12, 8, 1),
    "float8_e5m2fnuz": (13, 8, 1),
    "float8_e8m0fnu": (14, 8, 1),
    "float4_e2m1fn_x2": (17, 4, 2),
}
"""By the names of torch: code, bits and lanes of an element."""
