"""docs/reference/errors.md has every error text that the sources can raise."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "errors.md"
# Makers of errors in C++: their first argument, behind a code, is the text.
CPP_CALL = re.compile(
    r"\b(?:Status::error\(\s*Code::k\w+,|(?:file_error|strategy_error|unusable|fail|failed|invalid|truncated|not_safetensors)\()"
)
CPP_LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')
PYTHON_MAKERS = ("fail", "lost")


def first_argument(text: str, at: int) -> str:
    depth, quoted = 0, False
    for end in range(at, len(text)):
        letter = text[end]
        if letter == '"' and text[end - 1] != "\\":
            quoted = not quoted
        if quoted:
            continue
        if depth == 0 and letter in ",)":
            return text[at:end]
        depth += (letter in "([{") - (letter in ")]}")
    return text[at:]


def of_cpp() -> Iterator[tuple[Path, str]]:
    for path in [*ROOT.glob("cpp/src/**/*.cc"), *ROOT.glob("cpp/src/**/*.h")]:
        if path.parent.name == "c_api":  # its texts are runai_file_streamer_last_error()'s alone
            continue
        text = re.sub(r"(?m)^\s*//.*$", "", path.read_text())
        text = re.sub(r'"\s*\n\s*"', "", text)
        for call in CPP_CALL.finditer(text):
            for literal in CPP_LITERAL.findall(first_argument(text, call.end())):
                yield path, literal


def of_python() -> Iterator[tuple[Path, str]]:
    for path in ROOT.glob("python/runai_model_streamer/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            call = node.exc if isinstance(node, ast.Raise) else node
            if not isinstance(call, ast.Call) or not call.args:
                continue
            name = getattr(call.func, "id", "")
            if not (isinstance(node, ast.Raise) or name.endswith("Error") or name in PYTHON_MAKERS):
                continue
            for part in ast.walk(call.args[0]):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield path, part.value


def test_every_code_of_the_c_abi_is_expected_by_a_test() -> None:
    header = (ROOT / "cpp" / "include" / "streamer" / "response_code.h").read_text()
    codes = set(re.findall(r"^  (RUNAI_FILE_STREAMER_RESPONSE_\w+) = \d+", header, re.M))
    assert len(codes) == 30
    codes -= set(re.findall(r"/\* not returned[^*]*\*/\s+(\w+) = \d+", header))
    short = {
        long: name
        for name, long in re.findall(
            r"^  (RUNAI_FILE_STREAMER_\w+) =\s+(RUNAI_FILE_STREAMER_RESPONSE_\w+)", header, re.M
        )
    }
    tests = "".join(path.read_text() for path in ROOT.glob("tests/abi/*.cc"))
    names = {code: rf"\b({code}|{short.get(code, code)})\b" for code in codes}
    assert not {code for code, name in names.items() if not re.search(name, tests)}


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("\\", ""))


def test_every_text_is_on_the_page() -> None:
    page = plain(PAGE.read_text())
    texts = [*of_cpp(), *of_python()]
    # What is said, not the punctuation or the single word between two values.
    said = [(path.name, plain(text).strip(" :,;.'([)]")) for path, text in texts]
    said = [(name, text) for name, text in said if len(re.findall(r"\w+", text)) > 1]
    assert len(said) > 150
    missing = sorted({(name, text) for name, text in said if text not in page})
    assert not missing, missing
