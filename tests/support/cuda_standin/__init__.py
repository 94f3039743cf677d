"""The stand-in GPU driver: a shared library in the place of libcuda.so.1, and its Python side."""

from .driver import DEVICE_BYTES, Copy, Counts, Standin, StandinMemory, build, library

__all__ = ["DEVICE_BYTES", "Copy", "Counts", "Standin", "StandinMemory", "build", "library"]
