"""Checks what a libstreamer.so exports and needs: `check_exports.py LIBRARY [--static]`.

Exported: the C ABI under its version nodes and the public C++ names, each of them and nothing else.
With --static also: no libcurl, OpenSSL or C++ runtime is needed at run time.
"""

from __future__ import annotations

import re
import subprocess
import sys

C_1_0 = {
    "runai_file_streamer_" + name
    for name in (
        "start",
        "end",
        "set_credentials",
        "set_fs_strategy",
        "request",
        "response",
        "response_str",
        "probe_direct_block_size",
        "list_files",
    )
}
C_1_1 = {"runai_file_streamer_last_error", "runai_file_streamer_version"}
C_1_2 = {
    "runai_safetensors_" + name for name in ("header_end", "parse", "tensor", "metadata", "free")
}
C_1_3 = {"runai_file_streamer_set_interrupt"}
CXX = {
    "cached_fraction",
    "find_access",
    "code_name",
    "direct_read_alignment",
    "default_text",
    "find_setting",
    "fs_strategy_name",
    "list",
    "parse_fs_strategy",
    "settings_sign",
    "settings_table",
    "object_key",
    "path_traits",
    "at_version",
    "source_kind_name",
    "source_kind_of",
    "version",
    "MemoryLimit::from_setting",
    "Options::from_environment",
    *(
        "Status::" + name
        for name in (
            "error",
            "operator=",
            "with_path",
            "with_range",
            "with_errno",
            "with_http",
            "with_attempts",
            "with_device_fault",
            "with_endpoint",
            "with_identity",
            "with_hint",
            "code",
            "detail",
            "to_string",
        )
    ),
    *(
        "Stream::" + name
        for name in (
            "create",
            "~Stream",
            "open",
            "open_begin",
            "opened",
            "read",
            "read_begin",
            "read_next",
            "submit",
            "next",
            "detach_views",
            "unchanged",
            "cancel",
            "wake",
            "stats",
        )
    ),
    *(
        "safetensors::" + name
        for name in ("dtype_name", "dtype_bits", "header_end", "parse_header")
    ),
    *("Settings::" + name for name in ("text", "integer", "boolean", "choice")),
    *("Settings::" + name for name in ("text_or_default", "path", "number", "enabled")),
}
STATIC_NEEDS = re.compile(r"^(libc|libm|libdl|libpthread|librt|libgcc_s|ld-linux-[\w-]+)\.so")


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def exported(library: str) -> dict[str, set[str]]:
    """Version node -> names, C++ ones without namespace, arguments and qualifiers."""
    nodes: dict[str, set[str]] = {}
    for line in run(
        "nm", "-D", "-C", "--defined-only", "--with-symbol-versions", library
    ).splitlines():
        _, kind, symbol = line.split(maxsplit=2)
        if kind == "A":  # the version nodes themselves
            continue
        name, _, node = symbol.rpartition("@@")
        name = re.sub(r"(\[abi:cxx11\])?\(.*", "", name)
        nodes.setdefault(node, set()).add(re.sub(r"^streamer::", "", name))
    return nodes


def needed(library: str) -> set[str]:
    return set(re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", library)))


def main() -> int:
    library, static = sys.argv[1], "--static" in sys.argv[2:]
    problems = []
    nodes = exported(library)
    cxx_nodes = [node for node in nodes if re.fullmatch(r"MODEL_STREAMER_CXX_\d+\.\d+", node)]
    expected = {
        "RUNAI_FILE_STREAMER_1.0": C_1_0,
        "RUNAI_FILE_STREAMER_1.1": C_1_1,
        "RUNAI_FILE_STREAMER_1.2": C_1_2,
        "RUNAI_FILE_STREAMER_1.3": C_1_3,
    }
    expected |= dict.fromkeys(cxx_nodes[:1] or ["MODEL_STREAMER_CXX_?"], CXX)
    for node in sorted(set(nodes) | set(expected)):
        have, want = nodes.get(node, set()), expected.get(node, set())
        problems += [
            f"exported, and should not be: {name} ({node})" for name in sorted(have - want)
        ]
        problems += [f"not exported: {name} ({node})" for name in sorted(want - have)]
    if static:
        problems += [
            f"needs {name}" for name in sorted(needed(library)) if not STATIC_NEEDS.match(name)
        ]
    print(
        "\n".join(problems)
        or f"{library}: {sum(map(len, nodes.values()))} names, as they should be"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
