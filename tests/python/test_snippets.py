"""What the documentation tells readers to copy works."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file

import runai_model_streamer
from runai_model_streamer import _native_api as native
from tests.support.processes import ROOT
from tests.support.servers.listing import serve_directory

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def blocks(page: str | Path, language: str) -> list[str]:
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


WITH_PYTHON = [str(page.relative_to(ROOT)) for page in PAGES if blocks(page, "python")]


class Model(torch.nn.Module):
    """The model that `model` and the paths of the snippets stand for."""

    def __init__(self) -> None:
        super().__init__()
        self.lm_head = torch.nn.Linear(4, 2048, bias=False)


def small_llama(directory: Path) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 64}
    counts = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(**sizes, **counts, dtype="bfloat16")
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    model.save_pretrained(directory)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(directory)
    return model  # type: ignore[no-any-return]


def small_unet(directory: Path) -> torch.nn.Module:
    diffusers = pytest.importorskip("diffusers")
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8,), norm_num_groups=4, layers_per_block=1, **blocks
    )
    unet.save_pretrained(directory)
    return unet  # type: ignore[no-any-return]


def parallel(directory: Path) -> dict[str, Any]:
    """A checkpoint of one layer, two fused experts and a drafter; what its parts are for."""
    layer = "model.layers.0"
    shapes = {
        "lm_head.weight": (8, 4),
        "model.embed_tokens.weight": (8, 4),
        f"{layer}.mlp.down_proj.weight": (4, 4000),
        f"{layer}.mlp.gate_proj.weight": (4000, 4),
        f"{layer}.mlp.experts.w13": (2, 4, 4),
        "model.layers.1.eh_proj.weight": (4, 4),
        **{f"{layer}.self_attn.{part}_proj.weight": (4, 4) for part in "qkv"},
    }
    path = directory / "parallel.safetensors"
    save_file({name: torch.randn(shape) for name, shape in shapes.items()}, path)
    fused = torch.nn.Module()
    fused.qkv_proj = torch.nn.Linear(4, 12, bias=False)
    state = {"lm_head.weight": torch.zeros(2048, 4)}
    numbers = {"q_rows": 4, "kv_rows": 4, "layers": 1, "experts": 2, "rank": 0, "ranks": 2}
    return {
        **numbers,
        "path": path,
        "paths": [path],
        "fused": fused,
        "Model": Model,
        "rows": 4,
        "state_dict": state,
    }


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The URL of tmp_path / "web"."""
    (tmp_path / "web" / "model").mkdir(parents=True)
    (tmp_path / "web" / "model" / "config.json").write_text("{}")
    with serve_directory(tmp_path / "web") as url:
        yield url


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(runai_model_streamer.__file__).parent
    monkeypatch.setenv("STREAMER_LIBRARY", str(package / "libstreamer/lib/libstreamer.so"))


def need_torch_for(page: str) -> None:
    """Skips a page that shows what this torch does not have."""
    if page.endswith("/slices.md"):
        from torch.distributed import fsdp

        if not hasattr(fsdp, "fully_shard"):
            pytest.skip("this torch has no fully_shard() for the host")
    if "transformers" in page:
        transformers = pytest.importorskip("transformers")
        if not transformers.utils.is_torch_available():
            pytest.skip("this transformers needs a newer torch")


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_runs(page: str, tmp_path: Path, web: str) -> None:
    need_torch_for(page)
    models, originals = tmp_path / "models", {}
    (models / "small").mkdir(parents=True)
    if "transformers" in page:
        originals["model"] = small_llama(models / "llama")
        originals["unet"] = small_unet(models / "pipeline" / "unet")
    else:
        (models / "llama").mkdir()
        file = models / "llama" / "model.safetensors"
        save_file(Model().state_dict(), file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        (models / "llama" / "SHA256SUMS").write_text(f"{digest}  model.safetensors\n")
    (tmp_path / "file.bin").write_bytes(bytes(4296))
    group = f'"gloo", init_method="file://{tmp_path}/group", rank=0, world_size=1'
    places = {
        '"s3://bucket/llama"': f'"{models}/llama"',
        # A web server for what copies; from_pretrained() wants weights, too.
        '"s3://bucket/model"': f'"{models}/llama"' if "transformers" in page else f'"{web}/model/"',
        '"/cache/': f'"{tmp_path}/',
        '"/models/': f'"{models}/',
        '"s3://bucket/model.safetensors"': f'"{models}/llama/model.safetensors"',
        '"model.safetensors"': f'"{models}/llama/model.safetensors"',
        '"file.bin"': f'"{tmp_path}/file.bin"',
        '"cuda:0"': '"cpu"',
        'f"cuda:{rank}"': '"cpu"',
        '"nccl"': group,
    }
    names: dict[str, Any] = {"torch": torch, "model": Model()}
    names["SafetensorsStreamer"] = runai_model_streamer.SafetensorsStreamer
    if "transformers" not in page:
        # The function of another framework takes what numpy's takes.
        names["jax"] = types.SimpleNamespace(dlpack=numpy)
        names["paths"] = runai_model_streamer.list_safetensors(models / "llama")
    if page.endswith("/slices.md"):
        names |= parallel(models)
    try:
        for block in blocks(page, "python"):
            for written, place in places.items():
                block = block.replace(written, place)
            exec(compile(block, page, "exec"), names)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    for name, original in originals.items():
        loaded = names[name].state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in original.state_dict().items())


CXX_PROGRAM = """
#include <streamer/safetensors.h>
#include <streamer/stream.h>
#include <string>
#include <vector>

int main() {{
  {{
    {reading}
  }}
  std::vector<streamer::Range> ranges;
  auto stream = streamer::Stream::create(*streamer::Options::from_environment());
  {{
    {parsing}
  }}
  return ranges.size() == 2 ? 0 : 1;
}}
"""
C_PROGRAM = """
#include <signal.h>
#include <streamer/runai_file_streamer.h>
{functions}
int main(void) {{
  const char* path = "/models/a.safetensors";
  char bytes[16];
  const uint32_t count = 2;
  const size_t offsets[2] = {{0, 8}};
  const size_t sizes[2] = {{8, 8}};
  void* destinations[2] = {{bytes, bytes + 8}};
  uint64_t id;
  uint32_t file, range;
  int code, done;
  {calls}
  if (code != RUNAI_FILE_STREAMER_SUCCESS || bytes[8] != '{{') return 1;
  runai_file_streamer_start(&streamer);
  obey_ctrl_c(streamer);
  raise(SIGINT);
  code = runai_file_streamer_response(streamer, &id, &file, &range, &done, 60000);
  runai_file_streamer_end(streamer);
  return code == RUNAI_FILE_STREAMER_INTERRUPTED ? 0 : 1;
}}
"""


def run_program(text: str, suffix: str, compiler: list[str], directory: Path) -> None:
    """Compiles it against the installed library, with a checkpoint of two tensors, and runs it."""
    checkpoint = directory / "a.safetensors"
    save_file({"a": torch.zeros(4096), "b": torch.zeros(8)}, checkpoint)
    for path in ("/models/a.safetensors", "s3://bucket/b.safetensors"):
        text = text.replace(path, str(checkpoint))
    source = directory / f"program{suffix}"
    source.write_text(text)
    library = Path(runai_model_streamer.__file__).parent / "libstreamer"
    where = ["-I", str(library / "include"), str(library / "lib" / "libstreamer.so")]
    link = [f"-Wl,-rpath,{library / 'lib'}", "-o", str(directory / "program")]
    subprocess.run([*compiler, str(source), *where, *link], check=True)
    subprocess.run([str(directory / "program")], check=True)


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_cxx_runs(tmp_path: Path) -> None:
    reading, parsing = blocks("docs/guides/embedding.md", "cpp")
    text = CXX_PROGRAM.format(reading=reading, parsing=parsing)
    run_program(text, ".cc", ["g++", "-std=c++20"], tmp_path)


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_c_runs(tmp_path: Path) -> None:
    calls, functions = blocks("docs/guides/embedding.md", "c")
    text = C_PROGRAM.format(calls=calls, functions=functions)
    run_program(text, ".c", ["gcc", "-std=c11"], tmp_path)


def test_each_language_of_the_pages_has_a_test() -> None:
    languages = {
        language
        for page in PAGES
        for language in re.findall(r"^```(\w+)\n", page.read_text(), re.M)
    }
    # The lines of the Dockerfile are those of pip; CMake's are in examples/cpp; the site renders
    # the diagrams.
    elsewhere = {"cmake", "dockerfile", "mermaid"}
    assert languages - elsewhere == {"c", "cpp", "json", "python", "yaml"}


def test_cmake_is_that_of_the_example() -> None:
    (block,) = blocks("docs/guides/embedding.md", "cmake")
    example = (ROOT / "examples" / "cpp" / "CMakeLists.txt").read_text()
    for line in block.replace("program", "stream_files").splitlines():
        assert line in example


def test_json_is_json() -> None:
    found = [json.loads(block) for page in PAGES for block in blocks(page, "json")]
    assert found


def shell_commands() -> list[tuple[str, str]]:
    """Page and command: of the blocks without a language, and of the command line's examples."""
    programs = (
        r"(?:sudo )?(?:cc|cmake|export|git|make|model-streamer|pip|python3?|scripts/|tar|vllm)"
    )
    found = [
        (page.name, line.removeprefix("$ "))
        for page in PAGES
        for block in re.findall(r"^```\n(.*?)^```", page.read_text(), re.S | re.M)
        for line in block.replace("\\\n", " ").splitlines()
        if re.match(rf"\$? ?{programs}\b", line)
    ]
    named = re.findall(r"`(model-streamer -[^`]*)`", (ROOT / COMMAND_LINE).read_text())
    return found + [(COMMAND_LINE, line) for line in named]


COMMAND_LINE = "docs/guides/command-line.md"
COMMANDS = shell_commands()


class TestShell:
    def test_the_shell_can_read_it(self) -> None:
        assert len(COMMANDS) > 30
        text = "\n".join(line for _, line in COMMANDS)
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)

    def test_the_program_has_the_commands_and_options(self) -> None:
        typer = pytest.importorskip("typer")
        app = importlib.import_module("runai_model_streamer._cli.app").app
        group = typer.main.get_command(app)
        lines = [line for _, line in COMMANDS if line.startswith("model-streamer")]
        lines += [f"model-streamer {line}" for line in examples_of_the_program()]
        assert len(lines) > 10
        for line in lines:
            name, *arguments = shlex.split(line)[1:]
            if name.startswith("-"):
                assert name in {option for one in group.params for option in one.opts}, line
                continue
            command = group.commands[name]
            context = typer.Context(command, info_name=name)
            command.parse_args(context, arguments)

    def test_modules_exist(self) -> None:
        modules = {m for _, line in COMMANDS for m in re.findall(r"python3? -m ([\w.]+)", line)}
        assert modules
        for module in modules - {"sglang.launch_server"}:
            assert importlib.util.find_spec(module) is not None, module

    def test_settings_of_the_build_exist(self) -> None:
        build = (ROOT / "CMakeLists.txt").read_text()
        names = {n for _, line in COMMANDS for n in re.findall(r"cmake\.define\.(\w+)=", line)}
        assert names
        assert all(re.search(rf"\b{name}\b", build) for name in names)


def examples_of_the_program() -> list[str]:
    """Of the commands' help."""
    names = [page.stem for page in (ROOT / "python/runai_model_streamer/_cli").glob("*.py")]
    modules = [importlib.import_module(f"runai_model_streamer._cli.{n}") for n in names]
    return [line for module in modules for line in getattr(module, "EXAMPLES", ())]


def stub_wheel(directory: Path, name: str, version: str, metadata: list[str]) -> Path:
    """A wheel without files."""
    directory.mkdir(exist_ok=True)
    name_and_version = f"{name.replace('-', '_')}-{version}"
    path = directory / f"{name_and_version}-py3-none-any.whl"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata]
    with zipfile.ZipFile(path, "w") as archive:
        information = f"{name_and_version}.dist-info"
        archive.writestr(f"{information}/METADATA", "\n".join(lines) + "\n")
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{information}/WHEEL", tag)
        archive.writestr(f"{information}/RECORD", "")
    return path


PIP_LINES = [
    (str(page.relative_to(ROOT)), line.strip())
    for page in PAGES
    for line in re.findall(r"^.*\bpip install\b.*$", page.read_text(), re.M)
    if page.name != "CHANGELOG.md"
]


class TestPip:
    """The name on the public index is the original's."""

    def test_no_line_installs_the_original(self) -> None:
        assert len(PIP_LINES) > 10
        wrong = []
        for page, line in PIP_LINES:
            # In a sentence such a line is a warning.
            named = re.search(
                r"""pip install[^`]*[\s"'](runai-model-streamer)(\[[\w,]+\])?["'\s]""", line
            )
            if named and "`" not in line:
                wrong.append((page, line))
        assert not wrong

    def test_the_original_is_installed_by_its_version_alone(self) -> None:
        pinned = [line for _, line in PIP_LINES if "runai-model-streamer" in line and "==" in line]
        assert pinned == ['pip install "runai-model-streamer[s3]==0.17.0"']

    def test_what_requires_the_original_names_the_wheel(self) -> None:
        for page, line in PIP_LINES:
            if "[runai]" in line and "`" not in line:
                assert re.search(r'"\S*/runai_model_streamer-\S+\.whl\[', line), page

    def test_the_wheel_of_the_same_command_is_taken(self, tmp_path: Path) -> None:
        """Also if the index has a higher version, and another package requires an extra."""
        extra = ["Provides-Extra: s3", 'Requires-Dist: sdk; extra == "s3"']
        index = tmp_path / "index"
        for name, version, more in [
            ("sdk", "1", []),
            ("runai-model-streamer", "99.0", extra),
            ("server", "1", ["Requires-Dist: runai-model-streamer[s3]>=0.15.7"]),
        ]:
            stub_wheel(index, name, version, more)
        ours = stub_wheel(tmp_path / "release", "runai-model-streamer", "0.18.0", extra)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-compile"]
        command += [
            "--ignore-installed",
            "--find-links",
            str(index),
            "--target",
            str(tmp_path / "t"),
        ]
        environment = {**os.environ, "PIP_FIND_LINKS": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        subprocess.run([*command, "server", f"{ours}[s3]"], check=True, env=environment)
        installed = {path.name for path in (tmp_path / "t").glob("*.dist-info")}
        names = {"sdk-1", "server-1", "runai_model_streamer-0.18.0"}
        assert installed == {f"{name}.dist-info" for name in names}

    def test_names_with_brackets_are_quoted(self) -> None:
        """zsh takes brackets for a pattern."""
        for page, line in PIP_LINES:
            bare = re.sub(r"\"[^\"]*\"|'[^']*'|`[^`]*`", "", line)
            assert "[" not in bare.partition("pip install")[2], (page, line)

    def test_wheels_have_the_version_of_the_package(self) -> None:
        version = runai_model_streamer.__version__
        for page in PAGES:
            for found in re.findall(r"runai_model_streamer-([\d.]+)-cp3", page.read_text()):
                assert found == version, page


class TestKubernetes:
    @pytest.fixture
    def manifest(self) -> dict[str, Any]:
        yaml = pytest.importorskip("yaml")
        (block,) = blocks("docs/guides/kubernetes.md", "yaml")
        return {document["kind"]: document for document in yaml.safe_load_all(block)}

    def test_names_agree(self, manifest: dict[str, Any]) -> None:
        assert list(manifest) == ["ServiceAccount", "Deployment", "Service"]
        pods = manifest["Deployment"]["spec"]["template"]
        labels = pods["metadata"]["labels"]
        assert manifest["Deployment"]["spec"]["selector"]["matchLabels"] == labels
        assert manifest["Service"]["spec"]["selector"] == labels
        account = manifest["ServiceAccount"]["metadata"]["name"]
        assert pods["spec"]["serviceAccountName"] == account
        (server,) = pods["spec"]["containers"]
        volumes = {volume["name"] for volume in pods["spec"]["volumes"]}
        assert {mount["name"] for mount in server["volumeMounts"]} == volumes
        (port,) = server["ports"]
        assert manifest["Service"]["spec"]["ports"][0]["targetPort"] == port["containerPort"]

    def test_settings_exist_and_fit_into_the_memory(self, manifest: dict[str, Any]) -> None:
        (server,) = manifest["Deployment"]["spec"]["template"]["spec"]["containers"]
        settings = {row["name"] for row in native.settings_table()}
        values = {entry["name"]: entry["value"] for entry in server["env"]}
        assert all(isinstance(value, str) for value in values.values())
        assert set(values) - {"VLLM_ASSETS_CACHE"} <= settings
        limits = server["resources"]["limits"]
        assert limits["memory"] == server["resources"]["requests"]["memory"]
        assert int(values["RUNAI_STREAMER_MEMORY_LIMIT"]) < int(limits["memory"][:-2]) << 30

    def test_the_load_may_not_take_longer_than_the_probe(self, manifest: dict[str, Any]) -> None:
        (server,) = manifest["Deployment"]["spec"]["template"]["spec"]["containers"]
        values = {entry["name"]: entry["value"] for entry in server["env"]}
        probe = server["startupProbe"]
        assert (
            int(values["RUNAI_STREAMER_DEADLINE_SECONDS"])
            < probe["periodSeconds"] * probe["failureThreshold"]
        )
