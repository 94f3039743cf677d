"""The model hub: paths, tokens, redirects, revisions, lists, the local cache."""

from __future__ import annotations

import pytest

from runai_model_streamer import (
    FileStreamer,
    ObjectStorageModel,
    SafetensorsStreamer,
    StreamerError,
    list_safetensors,
    pull_files,
)
from tests.support.models import check_same, load, make_model, save

pytestmark = pytest.mark.servers
MODEL = make_model(20)
DATA = save(MODEL)


@pytest.fixture
def repo(hub, use):
    use({"HF_ENDPOINT": hub.url})
    files = {"m.safetensors": DATA, "config.json": b"{}", "sub/b c+ü.txt": b"text"}
    hub.push("org/repo", files)
    return hub


def test_stream_list_and_pull(repo, tmp_path):
    assert list_safetensors("hf://org/repo") == ["hf://org/repo/m.safetensors"]
    check_same(MODEL, load("hf://org/repo/m.safetensors"))
    # One redirect for the file; all other ranges go to the store at once.
    asked = [seen for seen in repo.seen if "/resolve/" in seen.path]
    assert len(asked) == 1
    assert len(repo.store.seen) >= 3
    pull_files("hf://org/repo/", str(tmp_path / "p"), None, ["*.safetensors"])
    assert (tmp_path / "p/config.json").read_bytes() == b"{}"
    assert (tmp_path / "p/sub/b c+ü.txt").read_bytes() == b"text"
    assert not (tmp_path / "p/m.safetensors").exists()
    with ObjectStorageModel("hf://org/repo", str(tmp_path / "o")) as model:
        model.pull_files()
    assert (tmp_path / "o/m.safetensors").read_bytes() == DATA
    assert FileStreamer().list_files("hf://org/repo/sub") == [("hf://org/repo/sub/b c+ü.txt", 4)]


def test_pages_of_lists(repo):
    repo.page = 3
    repo.push("org/many", {f"{number:02d}.safetensors": b"x" * number for number in range(10)})
    found = FileStreamer().list_files("hf://org/many@main")
    assert found == [(f"hf://org/many@main/{n:02d}.safetensors", n) for n in range(10)]
    assert len(repo.seen) == 4


def test_a_revision_is_a_branch_a_pull_request_or_a_commit(repo):
    other = make_model(3, seed=9)
    commit = repo.push("org/repo", {"m.safetensors": save(other)}, revision="refs/pr/1")
    check_same(other, load("hf://org/repo@refs%2Fpr%2F1/m.safetensors"))
    check_same(other, load("hf://org/repo@refs/pr/1/m.safetensors"))
    check_same(other, load(f"hf://org/repo@{commit}/m.safetensors"))
    check_same(MODEL, load("hf://org/repo/m.safetensors"))


def test_files_of_a_load_come_from_one_commit(repo):
    other = make_model(3, seed=9)
    repo.push("org/repo", {"n.safetensors": save(other)})
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(["hf://org/repo/m.safetensors"])
        first = repo.commits["org/repo", "main"]
        repo.push("org/repo", {"m.safetensors": save(other), "n.safetensors": DATA})
        check_same(MODEL, dict(streamer.get_tensors()))
    assert all(first in seen.path for seen in repo.store.seen)


@pytest.fixture
def private_uri(repo):
    """A file of a private repository."""
    repo.private.add("org/repo")
    return "hf://org/repo/m.safetensors"


def test_a_private_repository_without_a_token_is_an_error_that_names_the_setting(private_uri):
    with pytest.raises(StreamerError, match="HF_TOKEN") as caught:
        load(private_uri)
    assert (caught.value.code, caught.value.server_code) == ("permission", "RepoNotFound")


def test_a_wrong_token_is_an_error_without_the_token(private_uri, use):
    use({"HF_TOKEN": "hf_wrong"})
    with pytest.raises(StreamerError, match="owner of the token") as caught:
        load(private_uri)
    assert caught.value.server_code == "GatedRepo"
    assert "the hub's token of HF_TOKEN" in caught.value.identity
    assert "hf_wrong" not in str(caught.value)


def test_the_token_of_the_environment_loads_and_lists(repo, private_uri, use):
    use({"HF_TOKEN": repo.token})
    check_same(MODEL, load(private_uri))
    assert list_safetensors("hf://org/repo") == [private_uri]


@pytest.mark.parametrize(("setting", "file"), [("HF_HOME", ""), ("HF_TOKEN_PATH", "other")])
def test_the_token_of_a_file_loads(repo, private_uri, use, tmp_path, setting, file):
    (tmp_path / (file or "token")).write_text(repo.token + "\n")
    use({"HF_TOKEN": "", setting: str(tmp_path / file)})
    check_same(MODEL, load(private_uri))


def test_a_renamed_repository_is_followed(repo):
    repo.renamed["old/name"] = "org/repo"
    check_same(MODEL, load("hf://old/name/m.safetensors"))
    assert list_safetensors("hf://old/name") == ["hf://old/name/m.safetensors"]


def test_what_is_not_there(repo):
    for uri, code in (
        ("hf://org/repo/none", "EntryNotFound"),
        ("hf://org/repo@none/x", "RevisionNotFound"),
        ("hf://org/none/x", "RepoNotFound"),
    ):
        with pytest.raises(StreamerError) as caught:
            load(uri)
        assert caught.value.server_code == code
    with pytest.raises(StreamerError, match="REPO"):
        load("hf://org")


def test_the_local_cache_of_the_hub_is_read(repo, use, tmp_path):
    """Laid out as the hub's own library does."""
    commit = repo.commits["org/repo", "main"]
    cache = tmp_path / "hub" / "models--org--repo"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    (cache / "blobs").mkdir()
    (cache / "blobs" / "1").write_bytes(DATA)
    snapshot = cache / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "m.safetensors").symlink_to("../../blobs/1")
    use({"HF_HUB_CACHE": str(tmp_path / "hub")})
    for uri in ("hf://org/repo/m.safetensors", f"hf://org/repo@{commit}/m.safetensors"):
        repo.seen.clear()
        check_same(MODEL, load(uri))
        assert not repo.seen
    # What it lacks comes from the hub, and so do lists.
    pull_files("hf://org/repo", str(tmp_path / "p"), ["*.json"])
    assert (tmp_path / "p/config.json").read_bytes() == b"{}"
    assert repo.seen
    # Offline, the copy is all there is.
    repo.seen.clear()
    use({"HF_HUB_OFFLINE": "1"})
    assert list_safetensors("hf://org/repo") == ["hf://org/repo/m.safetensors"]
    check_same(MODEL, load("hf://org/repo/m.safetensors"))
    with pytest.raises(StreamerError, match="HF_HUB_OFFLINE") as caught:
        load("hf://org/repo/config.json")
    assert caught.value.code == "not_found"
    assert not repo.seen
