"""Plain https and http servers: redirects, secrets, versions, lists, servers without ranges."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
import time

import pytest

from runai_model_streamer import (
    FileStreamer,
    SafetensorsStreamer,
    StreamerError,
    list_safetensors,
    pull_files,
)
from runai_model_streamer._requests import FileChunks
from tests.support.models import check_same, load, make_model, save
from tests.support.servers import canned
from tests.support.servers.canned import Answer, Canned, HttpServer
from tests.support.servers.process import free_port

pytestmark = pytest.mark.servers
MODEL = make_model(3)
DATA = save(MODEL)


def ranged(seen, data=DATA, etag='"1"', **headers):
    return canned.ranged(seen, data, etag, **headers)


@pytest.fixture
def directory(www, tmp_path):
    """A directory of nginx, as a path and as the end of an address."""
    made = www / tmp_path.name
    made.mkdir()
    return made


def test_a_directory_of_nginx_loads_lists_and_pulls(nginx, directory, tmp_path):
    (directory / "m.safetensors").write_bytes(DATA)
    (directory / "sub").mkdir()
    (directory / "sub" / "ä b+%.json").write_bytes(b"{}")
    (directory / "empty.txt").write_bytes(b"")
    base = f"{nginx.url}/{directory.name}"
    check_same(MODEL, load(f"{base}/m.safetensors"))
    assert list_safetensors(base) == [f"{base}/m.safetensors"]
    assert list_safetensors(base + "/") == [f"{base}/m.safetensors"]
    assert FileStreamer().list_files(base)[1] == (f"{base}/m.safetensors", len(DATA))
    pull_files(base, str(tmp_path / "pulled"))
    assert (tmp_path / "pulled/m.safetensors").read_bytes() == DATA
    assert (tmp_path / "pulled/sub/ä b+%.json").read_bytes() == b"{}"
    assert (tmp_path / "pulled/empty.txt").read_bytes() == b""


def test_a_private_authority_needs_its_certificate(nginx, directory, authority, use):
    (directory / "m.safetensors").write_bytes(DATA)
    uri = f"{nginx.tls_url}/{directory.name}/m.safetensors"
    with pytest.raises(StreamerError) as caught:
        load(uri)
    assert caught.value.code == "network"
    use({"SSL_CERT_FILE": str(authority.ca)})
    check_same(MODEL, load(uri))


def test_an_index_lists_its_shards(nginx, directory):
    other = make_model(1, seed=5)
    shards = {"1 of 2.safetensors": MODEL, "2 of 2.safetensors": other}
    weight_map = {f"{name}{key}": name for name, model in shards.items() for key in model}
    for name, model in shards.items():
        (directory / name).write_bytes(save(model))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    base = f"{nginx.url}/{directory.name}"
    found = list_safetensors(f"{base}/model.safetensors.index.json")
    assert found == [f"{base}/1%20of%202.safetensors", f"{base}/2%20of%202.safetensors"]
    check_same(MODEL, load(found[0]))
    check_same(other, load(found[1]))
    assert list_safetensors(found[0]) == [found[0]]


def test_a_query_that_grants_access_to_an_index_is_sent_for_its_shards(tmp_path):
    index = json.dumps({"weight_map": {"a": "m.safetensors"}}).encode()

    def answer(seen):
        name, _, query = seen.path.rpartition("?")
        if query != "sig=a%2Fb":
            return Answer(403)
        return Answer(200, {}, index) if name.endswith(".json") else ranged(seen)

    with Canned(answer) as server:
        directory = f"{server.url}/models"
        (found,) = list_safetensors(f"{directory}/model.safetensors.index.json?sig=a%2Fb")
        assert found == f"{directory}/m.safetensors?sig=a%2Fb"
        check_same(MODEL, load(found))


@pytest.mark.parametrize("query", ["sig=x", "sig=a%2Fb", "sig=" + "A" * (1 << 15)])
@pytest.mark.parametrize("json_page", [False, True])
def test_a_query_that_grants_access_to_a_directory_is_sent_for_all_below(
    tmp_path, query, json_page
):
    """The query may be longer than what lies below."""

    def page(*names):
        if json_page:
            kinds = [("directory" if n[-1] == "/" else "file", n.strip("/")) for n in names]
            found = [{"name": name, "type": kind, "size": 1} for kind, name in kinds]
            return Answer(200, {"Content-Type": "application/json"}, json.dumps(found).encode())
        links = "".join(f'<a href="{name}">{name}</a>' for name in names)
        return Answer(200, {"Content-Type": "text/html"}, links.encode())

    pages = {"/d/": page("s/", "a.safetensors"), "/d/s/": page("t/"), "/d/s/t/": page("c.json")}

    def answer(seen):
        path, _, given = seen.path.partition("?")
        if given != query:
            return Answer(403)
        return pages.get(path) or ranged(seen)

    with Canned(answer) as server:
        directory = f"{server.url}/d"
        found = [path for path, _ in FileStreamer().list_files(f"{directory}?{query}")]
        assert found == [f"{directory}/a.safetensors?{query}", f"{directory}/s/t/c.json?{query}"]
        assert list_safetensors(f"{directory}/?{query}") == [f"{directory}/a.safetensors?{query}"]
        check_same(MODEL, load(found[0]))
        pull_files(f"{directory}?{query}", tmp_path / "pulled", ["*.json"])
    assert (tmp_path / "pulled/s/t/c.json").read_bytes() == DATA


def test_a_missing_file_or_index_is_not_found(nginx):
    with pytest.raises(StreamerError) as caught:
        load(f"{nginx.url}/none/none.safetensors")
    assert (caught.value.code, caught.value.http_status) == ("not_found", 404)
    with pytest.raises(StreamerError) as caught:
        list_safetensors(f"{nginx.url}/none/model.safetensors.index.json")
    assert caught.value.code == "not_found"


def test_a_presigned_query_goes_to_its_server_only(use, tmp_path):
    """The query gets to the server, and nowhere else; no other way to authenticate is mixed in."""
    trace = tmp_path / "trace"
    use({"RUNAI_STREAMER_HTTP_AUTHORIZATION": "Bearer other"})
    use({"RUNAI_STREAMER_TRACE_FILE": str(trace)})

    def answer(seen):
        assert "authorization" not in seen.headers
        if seen.path.endswith("X-Amz-Signature=sEcReT%2F"):
            return ranged(seen)
        return Answer(403)

    with Canned(answer) as server:
        uri = f"{server.url}/m.safetensors?X-Amz-Expires=60&X-Amz-Signature=sEcReT%2F"
        check_same(MODEL, load(uri))
        with pytest.raises(StreamerError) as caught:
            load(uri.replace("sEcReT", "SeCrEt"))
    for text in (str(caught.value), repr(caught.value), caught.value.path, trace.read_text()):
        assert "secret" not in text.lower()
    assert "m.safetensors" in caught.value.path


def header(described, data=b"12345"):
    text = json.dumps(described).encode()
    return len(text).to_bytes(8, "little") + text + data


NOT_SAFETENSORS = {
    "page": b"<html>This address has expired</html>",
    "short": b"<html>",
    "huge": b"\xff" * 64,
    "dtype": header({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 1]}}),
    "gap": header({"a": {"dtype": "U8", "shape": [1], "data_offsets": [4, 5]}}),
    "truncated": header({"a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}),
}


@pytest.mark.parametrize("query", ["sig=sEcReT", "sEcReT", "session=sEcReT", "prefix=sEcReT"])
def test_the_query_is_in_no_error_and_no_trace(use, tmp_path, query):
    """Whatever fails, and whatever the query looks like."""
    use({"RUNAI_STREAMER_TRACE_FILE": str(tmp_path / "trace")})

    def answer(seen):
        assert seen.path.endswith(query)
        return ranged(seen, NOT_SAFETENSORS[seen.path[1:].partition("?")[0]])

    calls = [
        lambda: FileChunks(0, f"https://h/m?{query}", -1, [1]),
        lambda: SafetensorsStreamer().stream_files(["/m", f"https://h/m?{query}"]),
    ]
    texts = [repr(FileChunks(0, f"https://h/m?{query}", 0, [1]))]
    with Canned(answer) as server:
        calls += [lambda n=name: load(f"{server.url}/{n}?{query}") for name in NOT_SAFETENSORS]
        for call in calls:
            with pytest.raises(ValueError) as caught:
                call()
            texts += [str(caught.value), repr(caught.value), repr(vars(caught.value))]
    texts.append((tmp_path / "trace").read_text())
    assert [text for text in texts if "sEcReT" in text] == []


def test_presigned_address_is_listed_and_pulled_by_its_name(tmp_path):
    with Canned(ranged) as server:
        address = f"{server.url}/directory/a%20b.safetensors?sig=sEcReT"
        assert list_safetensors(address) == [address]
        pull_files(address, tmp_path / "pulled")
        pull_files(f"{server.url}/plain.safetensors", tmp_path / "pulled")
    pulled = {path.name: path.read_bytes() for path in (tmp_path / "pulled").iterdir()}
    assert pulled == {"a b.safetensors": DATA, "plain.safetensors": DATA}


def test_authorization_comes_from_the_setting_or_netrc(use, tmp_path):
    def answer(seen):
        good = seen.headers.get("authorization") == expected
        return ranged(seen) if good else Answer(401)

    with Canned(answer) as server:
        uri = f"{server.url}/m.safetensors"
        expected = "Bearer secret"
        use({"RUNAI_STREAMER_HTTP_AUTHORIZATION": "Bearer secret"})
        check_same(MODEL, load(uri))
        use({"RUNAI_STREAMER_HTTP_AUTHORIZATION": "Bearer wrong"})
        with pytest.raises(StreamerError, match="RUNAI_STREAMER_HTTP_AUTHORIZATION") as caught:
            load(uri)
        assert (caught.value.code, caught.value.http_status) == ("permission", 401)
        assert "wrong" not in str(caught.value)
        use({"RUNAI_STREAMER_HTTP_AUTHORIZATION": ""})
        netrc = tmp_path / "netrc"
        netrc.write_text(
            "machine elsewhere login a password b\nmachine 127.0.0.1 login me password p:w"
        )
        expected = "Basic bWU6cDp3"
        shutil.copy(netrc, tmp_path / "home" / ".netrc")
        check_same(MODEL, load(uri))
        (tmp_path / "home" / ".netrc").unlink()
        use({"NETRC": str(netrc)})
        check_same(MODEL, load(uri))
        netrc.write_text("machine elsewhere login a password b")
        with pytest.raises(StreamerError, match="identity: none, no credentials were sent"):
            load(uri)


def test_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(StreamerError, match="netrc") as caught:
        load("https://me:s3cret@127.0.0.1/m.safetensors")
    assert caught.value.code == "invalid"
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_gets_no_secret(use, status):
    """Every range goes to the new place at once, and it does not learn who asks."""
    use({"RUNAI_STREAMER_HTTP_AUTHORIZATION": "Bearer secret"})
    model = make_model(20)

    def target(seen):
        assert "authorization" not in seen.headers
        assert seen.path == "/stored?Signature=1"
        return ranged(seen, save(model))

    with Canned(target) as store:
        place = {"Location": f"{store.url}/stored?Signature=1"}
        with Canned(lambda seen: Answer(status, place)) as server:
            check_same(model, load(f"{server.url}/m.safetensors"))
            assert [seen.headers["authorization"] for seen in server.seen] == ["Bearer secret"]
            assert len(store.seen) > 3


def test_a_redirect_on_the_same_host_keeps_the_secret(use):
    use({"RUNAI_STREAMER_HTTP_AUTHORIZATION": "Bearer secret"})
    steps = {"/a/m": "b", "/a/b": "/c/d", "/c/d": "../c/e"}

    def answer(seen):
        assert seen.headers["authorization"] == "Bearer secret"
        if seen.path in steps:
            return Answer(302, {"Location": steps[seen.path]})
        return ranged(seen)

    with Canned(answer) as server:
        check_same(MODEL, load(f"{server.url}/a/m"))
        assert server.seen[3].path == "/c/e"


@pytest.mark.parametrize(
    "host", ["127.1", "0x7f.1", "2130706433", "0", "[::ffff:127.0.0.1]", "localhost"]
)
def test_a_redirect_to_this_machine_is_not_followed_in_any_spelling(tmp_path, host):
    with Canned(ranged) as service:
        place = {"Location": f"http://{host}:{service.port}/m"}

        def answer(seen):
            if seen.path.endswith("/"):
                return Answer(200, {"Content-Type": "text/html"}, b'<a href="m">m</a>')
            return Answer(302, place)

        with Canned(answer) as server:
            with pytest.raises(StreamerError, match="of this machine"):
                load(f"{server.url}/m")
            with pytest.raises(StreamerError, match="of this machine"):
                pull_files(f"{server.url}/d/", str(tmp_path))
        assert not service.seen


def test_redirects_that_lead_nowhere(certificate, authority, use):
    use({"SSL_CERT_FILE": str(authority.ca)})
    for location in ("/m", "/n", "ftp://127.0.0.1/x", ""):
        with Canned(lambda seen, to=location: Answer(302, {"Location": to})) as server:
            with pytest.raises(StreamerError, match="redirects"):
                load(f"{server.url}/m")
    counter = iter(range(1000))
    with Canned(lambda seen: Answer(302, {"Location": f"/{next(counter)}"})) as server:
        with pytest.raises(StreamerError, match="circles"):
            load(f"{server.url}/m")
        assert len(server.seen) <= 10
    with Canned(ranged) as plain:
        place = {"Location": f"{plain.url}/m"}
        with Canned(lambda seen: Answer(302, place), certificate) as server:
            with pytest.raises(StreamerError, match="plain http"):
                load(f"{server.url}/m")
        assert not plain.seen


def test_address_that_expires_in_mid_stream(use):
    """The first address stops to work; the server is asked for another."""
    use({"RUNAI_STREAMER_CONCURRENCY": "2", "RUNAI_STREAMER_MEMORY_LIMIT": str(24 << 20)})
    model = make_model(60)
    data = save(model)
    counter = iter(range(1, 1000))
    valid = set()
    generous = [True]

    def entrance(seen):
        number = str(next(counter))
        if generous[0]:
            valid.add(number)
        return Answer(302, {"Location": f"{store.url}/m?Signature={number}"})

    def target(seen):
        number = seen.path.rpartition("=")[2]
        return ranged(seen, data) if number in valid else Answer(403)

    with Canned(target) as store, Canned(entrance) as server:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([f"{server.url}/m"])
            found = {}
            for name, tensor in streamer.get_tensors():
                if not found:
                    valid.clear()
                found[name] = tensor
        check_same(model, found)
        assert len(server.seen) >= 2
        # A new address that is refused, too, is an error.
        generous[0] = False
        with pytest.raises(StreamerError) as caught:
            load(f"{server.url}/m")
    assert (caught.value.code, caught.value.http_status) == ("permission", 403)


@pytest.mark.parametrize("version", ["etag", "weak", "date"])
def test_a_file_replaced_during_the_load_is_an_error(use, version):
    use({"RUNAI_STREAMER_MEMORY_LIMIT": "0"})  # the rest is not read before there is room for it
    model = make_model(24)
    data = save(model)
    state = {"n": 1}

    def answer(seen):
        number = state["n"]
        tags = {
            "etag": {"ETag": f'"{number}"'},
            "weak": {"ETag": f'W/"{number}"'},
            "date": {
                "Last-Modified": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(number))
            },
        }[version]
        wanted = seen.headers.get("if-match")
        if wanted and wanted != tags.get("ETag"):
            return Answer(412)
        if version == "date" and "if-unmodified-since" in seen.headers:
            assert seen.headers["if-unmodified-since"].endswith("GMT")
        return ranged(seen, data, etag="", **tags)

    with Canned(answer) as server:
        check_same(model, load(f"{server.url}/m"))
        sent = {name for seen in server.seen for name in seen.headers}
        assert ("if-match" in sent) == (version == "etag")
        assert ("if-unmodified-since" in sent) == (version == "date")
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([f"{server.url}/m"])
            state["n"] = 2
            with pytest.raises(StreamerError) as caught:
                dict(streamer.get_tensors())
    assert caught.value.code == "changed"


@pytest.fixture
def plain_server(tmp_path):
    """Python's own server, which knows no ranges."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *arguments):
            pass

    server = HttpServer(("127.0.0.1", free_port()), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def stored(plain_server, tmp_path):
    """A model on that server."""
    model = make_model(12)
    (tmp_path / "m.safetensors").write_bytes(save(model))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "config.json").write_bytes(b"{}")
    return model


def test_a_server_without_ranges_is_read_as_a_whole(plain_server, stored):
    check_same(stored, load(f"{plain_server}/m.safetensors"))


def test_the_page_of_a_directory_is_a_list(plain_server, stored, tmp_path):
    # The page is HTML.
    assert list_safetensors(plain_server) == [f"{plain_server}/m.safetensors"]
    pull_files(plain_server, str(tmp_path / "pulled"), ["*.json"])
    assert (tmp_path / "pulled/sub/config.json").read_bytes() == b"{}"


def test_a_file_over_the_limit_of_whole_reads_is_an_error(plain_server, stored, use):
    use({"RUNAI_STREAMER_HTTP_WHOLE_READ_LIMIT": str(8 << 20)})
    with pytest.raises(StreamerError, match="Range") as caught:
        load(f"{plain_server}/m.safetensors")
    assert caught.value.code == "unsupported"


def test_a_response_without_a_list_is_unsupported():
    with Canned(lambda seen: Answer(200, {"Content-Type": "text/plain"}, b"hello")) as server:
        with pytest.raises(StreamerError, match=r"index\.json") as caught:
            list_safetensors(f"{server.url}/directory")
    assert caught.value.code == "unsupported"


def test_objects_may_have_a_concurrency_of_their_own(use, tmp_path):
    use({"RUNAI_STREAMER_CONCURRENCY": "3", "RUNAI_STREAMER_OBJ_CONCURRENCY": "2"})
    (tmp_path / "m.safetensors").write_bytes(DATA)
    with Canned(ranged) as server:
        for path, expected in [
            (f"{server.url}/m.safetensors", 2),
            (tmp_path / "m.safetensors", 3),
        ]:
            with SafetensorsStreamer() as streamer:
                streamer.stream_files([path])
                check_same(MODEL, dict(streamer.get_tensors()))
                assert streamer.stats().concurrency == expected
