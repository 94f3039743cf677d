"""Side-by-side benchmarks of safetensors loaders.

`python -m benchmarks.local --help` for local files. Every loader runs in a process and a virtual
environment of its own, rounds are interleaved, the state of the page cache is forced and verified,
and every result is compared byte by byte with the files.
"""
