"""The model hub: paths, tokens, redirects, revisions, lists, the local cache."""

from __future__ import annotations

import urllib.parse

import pytest

from runai_model_streamer import (
    FileChunks,
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


def test_a_repository_is_listed(repo):
    assert list_safetensors("hf://org/repo") == ["hf://org/repo/m.safetensors"]
    assert FileStreamer().list_files("hf://org/repo/sub") == [("hf://org/repo/sub/b c+ü.txt", 4)]


def test_a_file_is_streamed_after_one_redirect(repo):
    check_same(MODEL, load("hf://org/repo/m.safetensors"))
    # One redirect for the file; all other ranges go to the store at once.
    asked = [seen for seen in repo.seen if "/resolve/" in seen.path]
    assert len(asked) == 1
    assert len(repo.store.seen) >= 3


def test_a_repository_is_pulled(repo, tmp_path):
    pull_files("hf://org/repo/", str(tmp_path / "p"), None, ["*.safetensors"])
    assert (tmp_path / "p/config.json").read_bytes() == b"{}"
    assert (tmp_path / "p/sub/b c+ü.txt").read_bytes() == b"text"
    assert not (tmp_path / "p/m.safetensors").exists()
    with ObjectStorageModel("hf://org/repo", str(tmp_path / "o")) as model:
        model.pull_files()
    assert (tmp_path / "o/m.safetensors").read_bytes() == DATA


def test_pages_of_lists_are_followed(repo):
    repo.page = 3
    repo.push("org/many", {f"{number:02d}.safetensors": b"x" * number for number in range(10)})
    found = FileStreamer().list_files("hf://org/many@main")
    assert found == [(f"hf://org/many@main/{n:02d}.safetensors", n) for n in range(10)]
    assert len([seen for seen in repo.seen if "/tree/" in seen.path]) == 4


@pytest.mark.parametrize(
    "link",
    [
        "{origin}{path}?{query}",
        "{authority}{path}?{query}",
        "{path}?{query}",
        "./../{revision}/./sub?{query}",
        "sub?{query}",
        "?{query}",
    ],
)
def test_a_link_to_the_next_page_is_relative_to_its_page(repo, monkeypatch, link):
    """In every form of RFC 3986, 4.2, and with the token."""
    repo.page = 2
    repo.private.add("org/paged")
    repo.push("org/paged", {f"sub/{number}": b"x" * number for number in range(5)})
    monkeypatch.setenv("HF_TOKEN", repo.token)
    answer = repo.handler

    def shorten(seen):
        found = answer(seen)
        if "Link" not in found.headers:
            return found
        url = urllib.parse.urlsplit(found.headers["Link"].partition(">")[0][1:])
        parts = {"origin": f"http://{url.netloc}", "authority": f"//{url.netloc}"}
        parts |= {"path": url.path, "query": url.query, "revision": url.path.split("/")[-2]}
        found.headers["Link"] = f'<{link.format(**parts)}>; rel="next"'
        return found

    monkeypatch.setattr(repo, "handler", shorten)
    found = FileStreamer().list_files("hf://org/paged/sub")
    assert found == [(f"hf://org/paged/sub/{number}", number) for number in range(5)]
    assert len([seen for seen in repo.seen if "/tree/" in seen.path]) == 3


@pytest.mark.parametrize("link", ["{store}/tree", "//{host}/tree", "https://{hub}/tree", "ftp://x"])
def test_a_link_to_another_host_is_not_followed(repo, monkeypatch, link):
    """Neither to another scheme or port of the same one."""
    answer = repo.handler
    parts = {"store": repo.store.url, "host": repo.store.url.partition("//")[2]}
    parts["hub"] = repo.url.partition("//")[2]

    def lead_away(seen):
        found = answer(seen)
        if "/tree/" in seen.path:
            found.headers["Link"] = f'<{link.format(**parts)}>; rel="next"'
        return found

    monkeypatch.setattr(repo, "handler", lead_away)
    with pytest.raises(StreamerError, match="next page of the list is at another host"):
        FileStreamer().list_files("hf://org/repo")
    assert not repo.store.seen


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


@pytest.fixture
def cache(repo, use, tmp_path):
    """Adds a file to the local cache, laid out as the hub's own library does."""
    directory = tmp_path / "hub" / "models--org--repo"
    (directory / "refs").mkdir(parents=True)
    (directory / "blobs").mkdir()

    def add(name, data, commit):
        (directory / "refs" / "main").write_text(commit)
        (directory / "blobs" / name).write_bytes(data)
        snapshot = directory / "snapshots" / commit
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(f"../../blobs/{name}")

    use({"HF_HUB_CACHE": str(tmp_path / "hub")})
    return add


def test_the_local_cache_of_the_hub_is_read(repo, use, cache, tmp_path):
    commit = repo.commits["org/repo", "main"]
    cache("m.safetensors", DATA, commit)
    repo.seen.clear()
    check_same(MODEL, load(f"hf://org/repo@{commit}/m.safetensors"))
    assert not repo.seen
    # A branch may have moved.
    check_same(MODEL, load("hf://org/repo/m.safetensors"))
    assert [seen.method for seen in repo.seen] == ["HEAD"]
    # What it lacks comes from the hub, and so do lists.
    pull_files("hf://org/repo", str(tmp_path / "p"), ["*.json"])
    assert (tmp_path / "p/config.json").read_bytes() == b"{}"
    # Offline, the copy is all there is.
    repo.seen.clear()
    use({"HF_HUB_OFFLINE": "1"})
    assert list_safetensors("hf://org/repo") == ["hf://org/repo/m.safetensors"]
    check_same(MODEL, load("hf://org/repo/m.safetensors"))
    with pytest.raises(StreamerError, match="HF_HUB_OFFLINE") as caught:
        load("hf://org/repo/config.json")
    assert caught.value.code == "not_found"
    assert not repo.seen


def load_all(*uris):
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(list(uris))
        return dict(streamer.get_tensors())


def test_a_cached_file_of_a_former_commit_is_not_mixed_with_files_of_the_hub(repo, cache):
    """As after a download that was interrupted, and a push."""
    old, new = ({name: make_model(3, seed=seed) for name in "ab"} for seed in (1, 2))
    cache("a.safetensors", save(old["a"]), repo.commits["org/repo", "main"])
    parts = {
        f"{name}.safetensors": save({f"{name}.{k}": t for k, t in new[name].items()})
        for name in "ab"
    }
    repo.push("org/repo", parts)
    loaded = load_all("hf://org/repo/a.safetensors", "hf://org/repo/b.safetensors")
    check_same({f"{name}.{k}": t for name in "ab" for k, t in new[name].items()}, loaded)


def test_a_hub_that_is_out_of_reach_leaves_the_cache(repo, use, cache):
    cache("m.safetensors", DATA, repo.commits["org/repo", "main"])
    use({"HF_ENDPOINT": "http://127.0.0.1:9"})
    check_same(MODEL, load("hf://org/repo/m.safetensors"))


def test_a_list_and_what_is_pulled_by_it_are_of_one_commit(repo, tmp_path, monkeypatch):
    """Also if a push comes between them, and between two pulls of one model."""
    first = repo.commits["org/repo", "main"]
    answer = repo.handler

    def push_after_lists(seen):
        found = answer(seen)
        if "/tree/" in seen.path:
            repo.push("org/repo", {"config.json": b"{1}", "m.safetensors": b"new"})
        return found

    monkeypatch.setattr(repo, "handler", push_after_lists)
    with ObjectStorageModel("hf://org/repo", tmp_path / "o") as model:
        model.pull_files(["*.json"])
        model.pull_files(["*.safetensors"])
    assert (tmp_path / "o/config.json").read_bytes() == b"{}"
    assert (tmp_path / "o/m.safetensors").read_bytes() == DATA
    assert all(first in seen.path for seen in repo.seen if "/resolve/" in seen.path)


def test_small_files_that_the_hub_sends_itself_are_of_one_commit(repo, monkeypatch):
    repo.push("org/repo", {"a": b"old a", "b": b"old b"})
    answer = repo.handler
    monkeypatch.setattr(
        repo,
        "handler",
        lambda seen: (answer(seen), repo.push("org/repo", {"a": b"new a", "b": b"new b"}))[0],
    )
    with FileStreamer() as streamer:
        streamer.stream_files(
            [FileChunks(i, f"hf://org/repo/{n}", 0, [5]) for i, n in enumerate("ab")]
        )
        read = {i: chunk.numpy().tobytes() for i, _, chunk in streamer.get_chunks()}
    # The two are opened at once: either may be answered before the first push.
    assert read in ({0: b"old a", 1: b"old b"}, {0: b"new a", 1: b"new b"})


@pytest.mark.parametrize("call", [load, list_safetensors])
def test_buckets_of_the_hub_are_refused_by_name(repo, call):
    with pytest.raises(StreamerError, match="buckets of the hub are not supported") as caught:
        call("hf://buckets/org/bucket/m.safetensors")
    assert caught.value.code == "unsupported"
    assert not repo.seen
