"""What each command finds in local files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from runai_model_streamer._cli import app as commands
from runai_model_streamer._tools import rates
from tests.support.models import file_bytes, make_model, save
from tests.support.processes import ROOT, environment, python

NAMES = ("ls", "inspect", "diff", "pull", "verify", "manifest", "doctor", "bench", "env")
FIRST = "model-00001-of-00002.safetensors"
SECOND = "model-00002-of-00002.safetensors"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class TestEveryCommand:
    @pytest.mark.parametrize("name", NAMES)
    def test_it_has_help_with_examples(self, run, name: str) -> None:
        text = run(name, "--help").output
        assert "Examples:" in text
        assert f"model-streamer {name}" in text
        assert "--json" in text

    def test_the_list_of_commands_cuts_no_sentence(self, run) -> None:
        assert "..." not in run("--help").output.partition("Commands:")[2]

    def test_there_are_no_others(self) -> None:
        assert {one.name for one in commands.app.registered_commands} == set(NAMES)

    @pytest.mark.parametrize("name", ["ls", "inspect", "verify", "manifest", "bench"])
    def test_a_path_that_is_not_there(self, run, document, tmp_path: Path, name: str) -> None:
        missing = tmp_path / "missing"
        result = run(name, missing, code=3)
        assert "Traceback" not in result.output
        assert str(missing) in result.stderr
        assert result.stdout == ""
        error = document(name, missing, code=3)
        assert error["schema"] == "model-streamer.error/1"
        assert error["error"]["code"] == "not_found"
        assert error["error"]["path"] == str(missing)

    @pytest.mark.parametrize("name", ["inspect", "verify", "manifest", "bench", "doctor"])
    def test_an_empty_directory_exits_with_code_3(self, run, tmp_path: Path, name: str) -> None:
        run(name, tmp_path, code=3)

    @pytest.mark.parametrize("name", ["ls", "verify", "diff", "inspect"])
    def test_names_stay_on_their_line(self, run, document, tmp_path: Path, name: str) -> None:
        evil = "a\nok: forged\x1b[2J\x9b1m\u202e"
        directory = tmp_path / "model"
        directory.mkdir()
        tensor = f"{evil}.weight"
        (directory / f"{evil}.safetensors").write_bytes(save({tensor: torch.zeros(2)}))
        paths = [directory] if name != "diff" else [directory, directory.with_name("other")]
        if name == "diff":
            paths[1].mkdir()
            (paths[1] / "b.safetensors").write_bytes(save({"b": torch.zeros(2)}))
        options = ["--tensors"] if name == "inspect" else []
        code = 1 if name == "diff" else 0
        lines = run(name, *paths, *options, code=code).stdout.splitlines()
        assert not [line for line in lines if line.startswith("ok: forged")]
        whole = run(name, *paths, "--json", code=code).stdout
        for text in ("".join(lines), whole.replace("\n", "")):
            assert not set(text) & set("\n\x1b\x9b\u202e")
        assert tensor in str(document("inspect", directory)["files"][0]["tensors"][0]["name"])

    def test_errors_stay_on_their_line(self, run, model: Path) -> None:
        text = run("bench", model, "--device", "a\nforged\x1b[2J", code=2).stderr
        assert text.count("\n") == 1
        assert "\x1b" not in text

    def test_wrong_usage_has_its_exit_code(self, run) -> None:
        run("ls", code=2)
        for words in (["ls", ""], ["diff", "x", ""], ["pull", "s3://b/x", ""]):
            assert "it is empty" in run(*words, code=2).stderr  # not the current directory
        run("ls", "--nonsense", "x", code=2)
        assert "Known: " in run("ls", "ftp://host/x", code=2).stderr


class TestLs:
    def test_files_further_down_need_the_option_r(self, run, tmp_path: Path) -> None:
        assert run("ls", tmp_path).stdout == "0 files, 0 Bytes\n"
        (tmp_path / "below").mkdir()
        (tmp_path / "below" / "config.json").write_text("{}")
        assert "use -r" in run("ls", tmp_path).stdout
        assert "1 file, 2 Bytes" in run("ls", "-r", tmp_path).stdout

    def test_files_of_a_directory_are_listed(self, run, document, model: Path) -> None:
        (model / "sub").mkdir()
        (model / "sub" / "more.bin").write_bytes(b"1234")
        found = document("ls", model)
        assert found["schema"] == "model-streamer.ls/1"
        names = [os.path.basename(one["path"]) for one in found["objects"]]
        assert names == sorted(["config.json", FIRST, SECOND, "model.safetensors.index.json"])
        assert found["bytes"] == sum(one["size"] for one in found["objects"])
        deep = document("ls", "-r", model)
        assert deep["count"] == 5
        assert any(
            one["path"].endswith("sub/more.bin") and one["size"] == 4 for one in deep["objects"]
        )
        assert FIRST in run("ls", model).stdout

    def test_a_file_lists_itself(self, document, model: Path) -> None:
        (one,) = document("ls", model / "config.json")["objects"]
        assert (one["path"], one["size"]) == (str(model / "config.json"), 2)


class TestInspect:
    def test_a_good_checkpoint_has_no_problems(self, run, document, model: Path) -> None:
        found = document("inspect", model)
        assert found["problems"] == []
        assert found["indexed"] is True
        assert found["tensors"] == 6
        assert found["parameters"] == sum(
            one["bytes"] for file in found["files"] for one in file["tensors"]
        )
        assert found["by_dtype"] == {"U8": {"tensors": 6, "parameters": 2 << 20, "bytes": 2 << 20}}
        assert set(found["by_layer"]) == {"layer.0", "layer.1", "layer.2"}
        text = run("inspect", model, "--tensors", "--layers").stdout
        assert "layer.0.1" in text
        assert "no problems found" in text

    def problems(self, document, path: Path, *options: str, code: int = 1) -> list[tuple]:
        found = document("inspect", path, *options, code=code)["problems"]
        return [(one["kind"], one["serious"], one["text"]) for one in found]

    def test_a_missing_shard_is_a_problem(self, document, model: Path) -> None:
        (model / SECOND).unlink()
        ((kind, serious, text),) = self.problems(document, model)
        assert (kind, serious) == ("missing", True)
        assert SECOND in text

    def test_a_broken_header_is_a_problem_with_a_remedy(self, document, model: Path) -> None:
        (model / SECOND).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid 1")
        ((kind, _, text),) = self.problems(document, model)
        assert kind == "header"
        assert "git lfs pull" in text

    def test_equal_names_are_problems_that_can_be_compared(self, document, tmp_path: Path) -> None:
        one, other = make_model(1, 2, seed=1), make_model(1, 2, seed=1)
        other["layer.1"] = other["layer.1"].clone()
        other["layer.1"][-1] ^= 1
        for name, tensors in (("a", one), ("b", other)):
            (tmp_path / f"{name}.safetensors").write_bytes(save(tensors))
        assert all("not compared" in text for _, _, text in self.problems(document, tmp_path))
        found = {
            text.split("'")[1]: (serious, text)
            for _, serious, text in self.problems(document, tmp_path, "--compare")
        }
        assert "with the same bytes" in found["layer.0"][1]
        assert found["layer.0"][0] is False
        assert "with different bytes" in found["layer.1"][1]
        assert found["layer.1"][0] is True

    def test_misaligned_data_is_a_warning(self, document, tmp_path: Path) -> None:
        header = {
            "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]},
        }
        (tmp_path / "x.safetensors").write_bytes(file_bytes(header, bytes(5)))
        ((kind, serious, text),) = self.problems(document, tmp_path, code=0)
        assert (kind, serious) == ("misaligned", False)
        assert "'b'" in text

    def test_an_index_that_does_not_fit(self, document, model: Path) -> None:
        path = model / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        index["weight_map"]["nowhere"] = FIRST
        del index["weight_map"]["layer.0.2"]
        path.write_text(json.dumps(index))
        found = self.problems(document, model)
        assert [(kind, serious) for kind, serious, _ in found] == [
            ("index", True),
            ("index", False),
        ]
        assert f"{path}: the index says that the tensor 'nowhere' is in" in found[0][2]
        assert "'layer.0.2'" in found[1][2]

    def test_a_header_longer_than_the_first_read(self, document, tmp_path: Path) -> None:
        tensors = {f"a.long.name.of.a.tensor.{n}": torch.zeros(1) for n in range(2000)}
        (tmp_path / "x.safetensors").write_bytes(save(tensors))
        assert document("inspect", tmp_path)["tensors"] == 2000


class TestDiff:
    def test_every_kind_of_change(self, document, run, tmp_path: Path) -> None:
        same, bytes_ = torch.arange(10), torch.arange(10.0)
        before = {"same": same, "bytes": bytes_, "gone": same, "dtype": same, "shape": same}
        after = {
            "same": same,
            "bytes": bytes_ + 1,
            "new": same,
            "dtype": same.float(),
            "shape": same.reshape(2, 5),
        }
        for name, tensors in (("a", before), ("b", after)):
            (tmp_path / f"{name}.safetensors").write_bytes(
                save({key: tensor.clone() for key, tensor in tensors.items()})
            )
        a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
        found = document("diff", a, b, code=1)
        assert {one["name"]: one["kind"] for one in found["changes"]} == {
            "bytes": "bytes",
            "gone": "removed",
            "new": "added",
            "dtype": "dtype",
            "shape": "shape",
        }
        assert found["same"] == 1
        kinds = {one["kind"] for one in document("diff", "--headers-only", a, b, code=1)["changes"]}
        assert "bytes" not in kinds
        assert "0 differences" in run("diff", a, a).stdout

    def test_a_file_that_lacks_is_no_difference(self, run, model: Path) -> None:
        (model / SECOND).unlink()
        run("diff", model, model, code=3)

    def test_a_tensor_that_its_file_lacks_is_no_difference(self, run, model: Path) -> None:
        path = model / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        index["weight_map"]["nowhere"] = FIRST
        path.write_text(json.dumps(index))
        assert "'nowhere'" in run("diff", model, model, code=1).stderr


class TestManifests:
    def test_what_is_written_is_verified(self, run, document, model: Path) -> None:
        sums = model / "SHA256SUMS"
        run("manifest", model, "-o", sums)
        subprocess.run(
            ["sha256sum", "--check", "--strict", sums.name],
            cwd=model,
            check=True,
            capture_output=True,
        )
        found = document("verify", model)
        assert found["good"] is True
        assert found["manifest"] == str(sums)
        assert {one["name"] for one in found["files"]} == {
            "config.json",
            FIRST,
            SECOND,
            "model.safetensors.index.json",
        }
        assert all(one["result"] == "ok" and one["expected"] for one in found["files"])

    def test_every_kind_of_difference_is_reported(self, run, document, model: Path) -> None:
        run("manifest", model, "-o", model / "SHA256SUMS")
        data = bytearray((model / FIRST).read_bytes())
        data[-1] ^= 1
        (model / FIRST).write_bytes(data)
        (model / "config.json").unlink()
        (model / "new.txt").write_text("x")
        found = document("verify", model, code=1)
        assert {one["name"]: one["result"] for one in found["files"]} == {
            "config.json": "missing",
            FIRST: "mismatch",
            SECOND: "ok",
            "model.safetensors.index.json": "ok",
            "new.txt": "unlisted",
        }
        assert found["good"] is False

    def test_a_statement_of_model_signing_verifies_its_files(
        self, run, document, model: Path, tmp_path
    ) -> None:
        statement = tmp_path / "statement.json"
        run("manifest", model, "--format", "model-signing", "-o", statement)
        written = json.loads(statement.read_text())
        assert written["predicateType"] == "https://model_signing/signature/v1.0"
        assert document("verify", model, "--manifest", statement)["good"] is True
        (model / "config.json").write_text("[]")
        assert document("verify", model, "--manifest", statement, code=1)["good"] is False

    def test_without_a_manifest_the_structure_counts(self, run, document, model: Path) -> None:
        assert document("verify", model)["manifest"] is None
        (model / SECOND).write_bytes((model / SECOND).read_bytes()[:-1])
        found = document("verify", model, code=1)
        failed = [one for one in found["files"] if one["result"] == "failed"]
        assert [one["name"] for one in failed] == [SECOND]

    def test_a_place_that_can_not_be_written(
        self, run, model: Path, tmp_path: Path, monkeypatch
    ) -> None:
        out = tmp_path / "missing" / "SHA256SUMS"
        monkeypatch.setattr("runai_model_streamer._cli.manifest.digests_below", pytest.fail)
        assert f"{out}: No such file" in run("manifest", model, "-o", out, code=3).stderr
        assert "Is a directory" in run("manifest", model, "-o", tmp_path, code=3).stderr

    def test_what_is_no_file_is_written_to(self, run, model: Path, tmp_path: Path) -> None:
        pipe, link = tmp_path / "pipe", tmp_path / "link"
        os.mkfifo(pipe)
        with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)) as reader:
            run("manifest", model, "-o", pipe)
            assert digest(model / FIRST) in reader.read()
        assert pipe.is_fifo()
        link.symlink_to(tmp_path / "sums")
        run("manifest", model, "-o", link)
        assert link.is_symlink()
        assert digest(model / FIRST) in (tmp_path / "sums").read_text()

    def test_a_manifest_does_not_list_itself(self, run, model: Path) -> None:
        for _ in range(2):
            run("manifest", model, "-o", model / "sums.txt")
        assert "sums.txt" not in (model / "sums.txt").read_text()
        run("verify", model, "--manifest", model / "sums.txt")

    def test_a_manifest_goes_to_the_output(self, run, model: Path) -> None:
        text = run("manifest", model, "--allow", "*.json").stdout
        assert text.splitlines() == [
            f"{digest(model / name)}  {name}"
            for name in ("config.json", "model.safetensors.index.json")
        ]


class TestEnv:
    @pytest.fixture(autouse=True)
    def proper_installation(self, monkeypatch) -> None:
        monkeypatch.setattr("runai_model_streamer._installation.problems", list)

    def test_values_sources_and_secrets(self, document, run, monkeypatch) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "7")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-value")
        monkeypatch.setenv("HTTPS_PROXY", "http://user:password@proxy:3128")
        found = document("env")
        rows = {one["name"]: one for one in found["settings"]}
        assert (
            rows["RUNAI_STREAMER_CONCURRENCY"]["value"],
            rows["RUNAI_STREAMER_CONCURRENCY"]["source"],
        ) == ("7", "environment")
        assert rows["RUNAI_STREAMER_ABORT_STRAGGLERS"]["source"] == "default"
        assert rows["RUNAI_STREAMER_ABORT_STRAGGLERS"]["default"] == "1"
        text = json.dumps(found) + run("env", "--all").output
        assert "very-secret" not in text
        assert "password" not in text.replace("passwords", "")
        assert "proxy:3128" in text

    def test_what_is_no_setting(self, document, run, monkeypatch) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMT", "5")
        monkeypatch.setenv("RUNAI_STREAMER_XYZZY", "5")
        monkeypatch.setenv("RUNAI_STREAMER_ABORT_STRAGGLERS", "perhaps")
        found = document("env", code=1)
        assert found["unknown"] == [
            {"name": "RUNAI_STREAMER_MEMORY_LIMT", "nearest": "RUNAI_STREAMER_MEMORY_LIMIT"},
            {"name": "RUNAI_STREAMER_XYZZY", "nearest": None},
        ]
        (problem,) = [one for one in found["settings"] if one["problem"]]
        assert problem["name"] == "RUNAI_STREAMER_ABORT_STRAGGLERS"
        assert "did you mean RUNAI_STREAMER_MEMORY_LIMIT?" in run("env", code=1).stdout


class TestBench:
    def test_the_import_of_torch_is_not_measured(self, model: Path) -> None:
        code = (
            "import sys\n"
            "from runai_model_streamer._tools import rates\n"
            "load = rates._load\n"
            "rates._load = lambda *a: (print('torch' in sys.modules), load(*a))[1]\n"
            f"rates.measure({str(model)!r}, seconds=0.1)\n"
        )
        assert python(code) == "True"

    def test_it_explains_every_bound(self) -> None:
        page = (ROOT / "docs" / "guides" / "usage.md").read_text().partition("| `bound` |")[2]
        documented = re.findall(r"^\| `([a-z]+)` \|", page.partition("\n\n")[0], re.M)
        engine = (ROOT / "cpp" / "src" / "engine" / "stats.cc").read_text()
        told = re.findall(r'return "([a-z]+)";', engine.partition("bounded_by(double")[2])
        assert set(rates._BOUNDS) == set(documented) == set(told)

    @pytest.mark.parametrize(("name", "code"), [("x.nope", 2), ("x", 2), ("missing/x.png", 3)])
    def test_a_picture_that_can_not_be_written(
        self, run, model: Path, tmp_path: Path, monkeypatch, name: str, code: int
    ) -> None:
        monkeypatch.setattr("runai_model_streamer._tools.rates.measure", pytest.fail)
        picture = tmp_path / name
        assert str(picture) in run("bench", model, "--plot", picture, code=code).stderr

    def test_what_it_measures(self, document, run, model: Path, tmp_path: Path) -> None:
        picture = tmp_path / "rates.png"
        found = document("bench", model, "--seconds", "0.2", "--plot", picture)
        assert found["load"]["bytes"] == 2 << 20
        assert [one["name"] for one in found["others"]][1:] == [
            f"concurrency {n}" for n in (1, 4, 16, 64)
        ]
        assert found["others"][0]["name"].startswith("raw reader")
        assert found["others"][0]["bytes"] == sum(
            (model / name).stat().st_size for name in (FIRST, SECOND)
        )
        assert sum(one["reads"] for one in found["reads"]["histogram"]) == found["reads"]["count"]
        assert found["verdict"][0].startswith("bound by")
        assert picture.read_bytes().startswith(b"\x89PNG")


class TestDoctorOfFiles:
    def test_every_step_of_a_good_file_is_reported(
        self, document, model: Path, monkeypatch
    ) -> None:
        monkeypatch.setattr("runai_model_streamer._tools.local_checks._SLOW", 0)
        steps = {one["name"]: one for one in document("doctor", model)["steps"]}
        assert {"settings", "file", "file system", "page cache", "descriptors", "cgroup"} <= set(
            steps
        )
        assert steps["file"]["status"] == "ok"

    def test_one_that_is_not_there(self, document, tmp_path: Path) -> None:
        found = document("doctor", tmp_path / "missing", code=3)
        assert found["cause"] == "missing"

    def test_what_is_no_path_of_a_file(self, document, model: Path) -> None:
        (model / "loop").symlink_to("loop")
        for path in (model / "config.json" / "x", model / "loop", model / ("x" * 300)):
            assert document("doctor", path, code=3)["cause"] == "missing"

    def test_a_file_of_another_kind(self, document, model: Path) -> None:
        (model / SECOND).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid 1")
        found = document("doctor", model / SECOND, code=3)
        assert found["cause"] == "format"

    def test_a_link_to_what_is_not_there(self, document, model: Path) -> None:
        """The cache of the hub consists of links."""
        (model / SECOND).unlink()
        (model / SECOND).symlink_to("../blobs/0123")
        found = document("doctor", model, code=3)
        assert found["cause"] == "missing"
        assert f"{model / SECOND}: the link leads to ../blobs/0123" in found["steps"][-1]["text"]

    def test_one_file_that_may_not_be_read(self, document, model: Path, monkeypatch) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith(SECOND))
        found = document("doctor", model, code=3)
        assert found["cause"] == "permission"
        assert str(model / SECOND) in found["steps"][-1]["text"]

    def test_a_slow_disk(self, tmp_path: Path, slow_disk: str) -> None:
        path = tmp_path / "x.safetensors"
        path.write_bytes(save(make_model(5, 1)))
        done = subprocess.run(
            [sys.executable, "-m", "runai_model_streamer", "doctor", "--json", str(path)],
            env=environment(LD_PRELOAD=slow_disk, SHIM_SECONDS="2", SHIM_FROM="0"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert json.loads(done.stdout)["cause"] == "slow", done.stdout

    def test_a_pipe_counts_as_missing(self, document, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        assert document("doctor", tmp_path / "pipe", code=3)["cause"] == "missing"


def written_commands() -> list[str]:
    """What the pages and the help tell readers to type."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    text = "\n".join(page.read_text() for page in pages)
    lines = re.findall(r"^model-streamer (.+)$", text, re.M)
    lines += re.findall(r"`model-streamer ([a-z]+ [^`]+)`", text)
    modules = (getattr(commands, name) for name in NAMES)
    return [*lines, *(example for module in modules for example in module.EXAMPLES)]


def test_commands_that_pages_and_help_show_can_be_typed() -> None:
    program = typer.main.get_command(commands.app)
    written = [shlex.split(line) for line in written_commands()]
    assert len(written) > 20
    for words in written:
        command = program.commands[words[0]]  # type: ignore[attr-defined]
        if len(words) == 2 and words[1].startswith("--"):
            assert words[1] in {name for option in command.params for name in option.opts}, words
        else:
            command.make_context(words[0], words[1:])


class TestThePrograms:
    """Real processes."""

    def call(self, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "runai_model_streamer", *map(str, arguments)],
            env=environment(**variables),
            capture_output=True,
            text=True,
            check=False,
        )

    def test_output_that_is_not_a_terminal_is_plain(self, model: Path) -> None:
        done = self.call("ls", model)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.isascii()
        assert "\x1b" not in done.stdout

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_shells_complete_commands(self, shell: str) -> None:
        word = {"COMP_WORDS": "model-streamer ins", "COMP_CWORD": "1"}
        word |= {"_TYPER_COMPLETE_ARGS": word["COMP_WORDS"]}
        word |= {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        done = self.call(_MODEL_STREAMER_COMPLETE=f"complete_{shell}", **word)
        assert "inspect" in done.stdout, done.stderr
        assert "bench" not in done.stdout
        script = self.call(_MODEL_STREAMER_COMPLETE=f"source_{shell}").stdout
        assert f"_MODEL_STREAMER_COMPLETE=complete_{shell}" in script

    def test_tracebacks_are_for_debugging(self, tmp_path: Path) -> None:
        assert "Traceback" not in self.call("ls", tmp_path / "no").stderr
        assert "Traceback" in self.call("ls", tmp_path / "no", "--debug").stderr

    @pytest.mark.parametrize("command", ["ls", "inspect", "verify", "manifest", "doctor"])
    def test_commands_need_no_torch(self, model: Path, tmp_path: Path, command: str) -> None:
        """It takes seconds to import, and machines that only hold files do not have it."""
        (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')\n")
        done = self.call(command, model, PYTHONPATH=str(tmp_path))
        assert done.returncode in (0, 1), done.stderr  # a busy disk is a finding of doctor
        assert done.stderr == ""

    def test_a_missing_extra_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(name='typer')\n")
        done = self.call("ls", tmp_path, PYTHONPATH=str(tmp_path))
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "pip install typer rich" in done.stderr

    def test_names_that_are_not_utf8(self, tmp_path: Path) -> None:
        directory = tmp_path / "odd"
        directory.mkdir()
        (directory / os.fsdecode(b"x\xe9.txt")).write_text("x")
        for command in ("ls", "verify", "manifest"):
            for option in ([], ["--json"]):
                done = self.call(command, *option, directory)
                assert (done.returncode, done.stderr) == (0, ""), command
        sums = directory / "SHA256SUMS"
        assert self.call("manifest", directory, "-o", sums).returncode == 0
        assert b"x\xe9.txt" in sums.read_bytes()
        assert "1 of 1 compared" in self.call("verify", directory).stdout

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    @pytest.mark.parametrize("words", ["ls .", "ls --json .", "--help", "ls --help", "--version"])
    def test_an_output_that_is_full(self, words: str, unbuffered: str) -> None:
        command = f"{sys.executable} -m runai_model_streamer {words} > /dev/full"
        env = environment(PYTHONUNBUFFERED=unbuffered)
        done = subprocess.run(
            ["sh", "-c", command], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 3
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(("words", "code"), [("ls .", 0), ("ls missing", 3), ("--help", 0)])
    def test_outputs_that_are_closed(self, words: str, code: int) -> None:
        for closed in (">&-", "2>&-", ">&- 2>&-"):
            command = f"{sys.executable} -m runai_model_streamer {words} {closed}"
            done = subprocess.run(
                ["sh", "-c", command],
                env=environment(),
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == code, closed
            assert "Traceback" not in done.stderr

    def test_an_interrupt_while_packages_are_imported(self, tmp_path: Path) -> None:
        (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")
        done = self.call("ls", tmp_path, PYTHONPATH=str(tmp_path))
        assert (done.returncode, done.stderr) == (130, "")

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    def test_a_reader_that_has_enough(self, model: Path, unbuffered: str) -> None:
        command = f"{sys.executable} -m runai_model_streamer ls -r {model} | head -n 1"
        env = environment(PYTHONUNBUFFERED=unbuffered)
        done = subprocess.run(
            ["sh", "-c", command], env=env, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
