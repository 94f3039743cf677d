"""`model-streamer doctor` and faults that are made on purpose: it has to name each."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runai_model_streamer import StreamerError, list_safetensors
from runai_model_streamer._tools.doctor import cause_in, diagnose
from runai_model_streamer._tools.steps import FAIL, OK, SKIP, WARN, Step
from tests.python.object_storage.canned_s3 import DATA, error, listed, serve
from tests.python.object_storage.storages.s3 import S3_ENV
from tests.support.models import make_model, save
from tests.support.processes import environment
from tests.support.servers import process
from tests.support.servers.canned import Answer, Canned, Seen
from tests.support.servers.ceph import OTHER_ACCESS_KEY, OTHER_SECRET_KEY, SECRET_KEY
from tests.support.servers.compiler import build
from tests.support.servers.connect_proxy import ConnectProxy
from tests.support.servers.listener import Listener
from tests.support.servers.socks_proxy import SocksProxy

SHARED_DIRECTORY = True


@pytest.fixture
def model(s3_storage, use) -> str:
    """The path of a directory of Ceph's with a model."""
    s3_storage.put("model.safetensors", save(make_model(2, 3)))
    use(s3_storage.env)
    return s3_storage.uri


@pytest.fixture(autouse=True)
def patience(request, monkeypatch) -> None:
    """A busy machine does not count as slow, unless that is the fault."""
    if "slow" not in request.node.name:
        monkeypatch.setattr("runai_model_streamer._tools.doctor._SLOW", 0)


def steps_of(path: str) -> dict[str, Step]:
    return {step.name: step for step in diagnose(path)}


def in_a_process(path: str, **variables: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "runai_model_streamer", "doctor", "--json", path],
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_nothing_is_wrong(model: str) -> None:
    steps = list(diagnose(model))
    assert cause_in(steps) is None, steps
    assert {step.status for step in steps} <= {OK, SKIP}
    found = {step.name: step.text for step in steps}
    assert "AWS_ENDPOINT_URL" in found["address"]
    assert "TEST...0001" in found["credentials"]
    assert not any(SECRET_KEY in step.text + step.cure for step in steps)


def test_a_socks_proxy(model: str, use, ceph) -> None:
    with SocksProxy({"127.0.0.1": ceph.port}) as proxy:
        use({"http_proxy": f"socks5h://{proxy.address}"})
        steps = list(diagnose(model))
        assert cause_in(steps) is None, steps
        assert {step.name: step.status for step in steps}["read"] == OK
        assert proxy.asked


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
@pytest.mark.parametrize(
    ("value", "status", "text"),
    [
        ("http://127.0.0.9", FAIL, "127.0.0.9, port 1080"),
        ("127.0.0.9:1", FAIL, "127.0.0.9, port 1:"),
        ("https://me:hidden@127.0.0.9", SKIP, "https://127.0.0.9:443 is no plain HTTP"),
    ],
)
def test_a_proxy_is_the_one_of_requests(
    model: str, use, monkeypatch, variable, value, status, text
) -> None:
    monkeypatch.delenv("all_proxy", raising=False)
    use({variable: value, "RUNAI_STREAMER_MAX_ATTEMPTS": "1"})
    (step,) = [one for one in diagnose(model) if one.text.startswith(text)]
    assert (step.name, step.status) == ("proxy", status)
    if status == FAIL:
        assert variable in step.cure
    with pytest.raises(StreamerError, match=r"no connection by the proxy 127\.0\.0\.9:") as caught:
        list_safetensors(model)
    assert f"Check {variable} and NO_PROXY" in str(caught.value)
    assert "hidden" not in str(caught.value) + step.text + step.cure


def test_a_variable_that_names_no_proxy(model: str, use) -> None:
    use({"http_proxy": "ftp://me:hidden@h:1"})
    failed = [step for step in diagnose(model) if step.status == FAIL]
    assert [(step.name, step.cause) for step in failed] == [("address", "proxy")]
    assert "http_proxy does not name a proxy" in failed[0].text
    assert "hidden" not in failed[0].text + failed[0].cure


@dataclasses.dataclass(frozen=True)
class Fault:
    """`seed` gets the fixtures by name and the path of a good model; it returns another path."""

    cause: str
    seed: Callable[..., str]


def wrong_bucket(model, **_) -> str:
    return model.replace("s3://models/", "s3://modelz/")


def wrong_region(canned, **_) -> str:
    def handler(seen: Seen) -> Answer:
        if "/us-east-1/" in seen.headers.get("authorization", ""):
            return error(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>")
        if seen.method == "HEAD":
            return Answer(403, {"x-amz-bucket-region": "eu-west-1"})
        return listed({"a/x": len(DATA)}) if "list-type" in seen.path else serve(seen)

    canned(handler)
    return "s3://bucket/a"


def wrong_region_in_words(canned, **_) -> str:
    words = "The region us-east-1 is wrong"
    body = f"<Error><Code>InvalidRequest</Code><Message>{words}</Message></Error>".encode()
    canned(lambda seen: Answer(400, {}, body))
    return "s3://bucket/a"


def wrong_secret(model, use, **_) -> str:
    use({"AWS_SECRET_ACCESS_KEY": "of-somebody-else"})
    return model


def unknown_key(model, use, **_) -> str:
    use({"AWS_ACCESS_KEY_ID": "NOBODYSACCESSKEY0001"})
    return model


def expired_token(canned, use, **_) -> str:
    canned(lambda seen: error(400, "ExpiredToken"))
    use({"AWS_SESSION_TOKEN": "old"})
    return "s3://bucket/a"


def foreign_token(canned, use, **_) -> str:
    """As stores that are compatible say it."""
    body = b"<Error><Code>InvalidArgument</Code><Message>Invalid session token</Message></Error>"
    canned(lambda seen: Answer(400, {}, body))
    use({"AWS_SESSION_TOKEN": "of-another-store"})
    return "s3://bucket/a"


def unknown_host(model, use, **_) -> str:
    use({"AWS_ENDPOINT_URL": "http://storage.example.invalid:9000"})
    return model


def dead_proxy(model, use, **_) -> str:
    use({"http_proxy": f"http://127.0.0.1:{process.free_port()}"})
    return model


def dead_socks_proxy(model, use, **_) -> str:
    use({"http_proxy": f"socks5://127.0.0.1:{process.free_port()}"})
    return model


def proxy_that_refuses(model, use, ceph, authority, request, **_) -> str:
    proxy = ConnectProxy({})
    proxy.__enter__()
    request.addfinalizer(proxy.__exit__)
    use(
        {
            "HTTPS_PROXY": proxy.url,
            "AWS_ENDPOINT_URL": ceph.tls_url,
            "AWS_CA_BUNDLE": str(authority.ca),
        }
    )
    return model


def unknown_authority(model, use, ceph, **_) -> str:
    use({"AWS_ENDPOINT_URL": ceph.tls_url})
    return model


def nobody_listens(model, use, **_) -> str:
    use({"AWS_ENDPOINT_URL": f"http://127.0.0.1:{process.free_port()}"})
    return model


def tls_at_a_plain_port(model, use, ceph, **_) -> str:
    use({"AWS_ENDPOINT_URL": ceph.url.replace("http:", "https:")})
    return model


def plain_at_a_tls_port(model, use, ceph, **_) -> str:
    use({"AWS_ENDPOINT_URL": ceph.tls_url.replace("https:", "http:")})
    return model


def permission_on_one_prefix(ceph, use, **_) -> str:
    """Another user may list and read one prefix, and not the other one."""
    client = ceph.client()
    bucket = "of-two-users"
    client.create_bucket(Bucket=bucket)
    for key in ("open/x", "closed/x"):
        client.put_object(Bucket=bucket, Key=key, Body=DATA)
    client.put_bucket_policy(
        Bucket=bucket,
        Policy=json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Effect": "Allow",
                        "Principal": "*",
                        "Action": "s3:GetObject",
                        "Resource": f"arn:aws:s3:::{bucket}/open/*",
                    },
                    {
                        "Effect": "Allow",
                        "Principal": "*",
                        "Action": "s3:ListBucket",
                        "Resource": f"arn:aws:s3:::{bucket}",
                        "Condition": {"StringLike": {"s3:prefix": "open/*"}},
                    },
                ],
            }
        ),
    )
    use(
        {
            **S3_ENV,
            "AWS_ENDPOINT_URL": ceph.url,
            "AWS_ACCESS_KEY_ID": OTHER_ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": OTHER_SECRET_KEY,
        }
    )
    assert cause_in(list(diagnose(f"s3://{bucket}/open"))) is None
    return f"s3://{bucket}/closed"


def throttling(s3_storage, model, use, **_) -> str:
    use(s3_storage.proxied)
    s3_storage.nginx.fault("status", status=503, code="SlowDown")
    return model


def slow_storage(s3_storage, model, use, **_) -> str:
    use(s3_storage.proxied)
    s3_storage.nginx.fault("rate", bps=1 << 20, match=s3_storage.read_match)
    return model


def answers(answer: Answer) -> Callable[..., str]:
    def seed(canned, **_) -> str:
        canned(lambda seen: answer)
        return "s3://bucket/a"

    return seed


def page_in_place_of_a_file(canned, **_) -> str:
    """Which web servers send instead of a status."""
    page = Answer(200, {"Content-Type": "text/html"}, b"<!DOCTYPE html><html>Sign in</html>")
    return canned(lambda seen: page).url + "/llama/model.safetensors"


def unauthorized(canned, **_) -> str:
    return canned(lambda seen: Answer(401)).url + "/llama/model.safetensors"


def certificate(use, authority, request, **issued) -> str:
    server = Canned(lambda seen: Answer(), authority.issue("of-the-doctor", **issued))
    server.__enter__()
    request.addfinalizer(server.__exit__)
    use({"AWS_ENDPOINT_URL": server.url, "AWS_CA_BUNDLE": str(authority.ca)})
    return "s3://bucket/a"


def certificate_out_of_date(use, authority, request, **_) -> str:
    return certificate(use, authority, request, expired=True)


def certificate_of_another(use, authority, request, **_) -> str:
    return certificate(use, authority, request, names=["other.example"], addresses=[])


def silent_proxy(model, use, request, **_) -> str:
    listener = Listener(lambda client: None)  # which never accepts
    request.addfinalizer(listener._socket.close)
    use({"http_proxy": f"http://127.0.0.1:{listener.port}"})
    return model


def malformed_proxy(model, use, **_) -> str:
    use({"http_proxy": "http://[::1"})
    return model


FAULTS = [
    Fault("endpoint", answers(Answer(200, {"Content-Type": "text/html"}, b"<html></html>"))),
    Fault("server", answers(error(500, "InternalError"))),
    Fault("credentials", unauthorized),
    Fault("format", page_in_place_of_a_file),
    Fault("ca", certificate_out_of_date),
    Fault("endpoint", certificate_of_another),
    Fault("proxy", silent_proxy),
    Fault("proxy", malformed_proxy),
    Fault("bucket", wrong_bucket),
    Fault("region", wrong_region),
    Fault("region", wrong_region_in_words),
    Fault("key", wrong_secret),
    Fault("key", unknown_key),
    Fault("token", expired_token),
    Fault("token", foreign_token),
    Fault("dns", unknown_host),
    Fault("proxy", dead_proxy),
    Fault("proxy", dead_socks_proxy),
    Fault("proxy", proxy_that_refuses),
    Fault("ca", unknown_authority),
    Fault("endpoint", nobody_listens),
    Fault("endpoint", tls_at_a_plain_port),
    Fault("endpoint", plain_at_a_tls_port),
    Fault("permission", permission_on_one_prefix),
    Fault("throttling", throttling),
    Fault("slow", slow_storage),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.seed.__name__)
def test_doctor_names_the_cause(
    fault: Fault, model, s3_storage, ceph, authority, canned, use, request
) -> None:
    s3_storage.nginx.clear_faults()
    try:
        path = fault.seed(
            model=model,
            s3_storage=s3_storage,
            ceph=ceph,
            authority=authority,
            canned=canned,
            use=use,
            request=request,
        )
        steps = list(diagnose(path))
    finally:
        s3_storage.nginx.clear_faults()
    assert cause_in(steps) == fault.cause, steps
    wrong = [step for step in steps if step.status in (FAIL, WARN)]
    assert all(step.cure for step in wrong), steps
    assert not any(SECRET_KEY in step.text for step in steps)


def test_a_wrong_clock_is_named(model: str, tmp_path: Path) -> None:
    clock = build(process.HERE / "shifted_clock.cc", "-shared", "-fPIC")
    found = in_a_process(model, LD_PRELOAD=str(clock), SHIFT_SECONDS="7200")
    assert found["cause"] == "clock", found


def test_a_token_that_has_ended(use, monkeypatch) -> None:
    """Which the credentials themselves say."""
    use({"AWS_ENDPOINT_URL": "http://storage.example.invalid:9000"})
    monkeypatch.setattr(
        "runai_model_streamer._tools.doctor.make_provider",
        lambda: (
            lambda kind, container, refresh: (
                {"access_key_id": "A" * 20, "secret_access_key": "s"},
                1,
                "a session of a test",
            )
        ),
    )
    steps = steps_of("s3://bucket/a")
    assert (steps["credentials"].status, steps["credentials"].cause) == (FAIL, "token")
    assert "a session of a test: ended at 1970" in steps["credentials"].text


@pytest.mark.parametrize("name", ["gcs", "azure", "web", "hf"])
def test_other_storages_pass_every_step(request, use, name: str) -> None:
    storage = request.getfixturevalue(f"{name}_storage")
    storage.put("model.safetensors", save(make_model(1, 2)))
    use(storage.env)
    steps = list(diagnose(storage.uri))
    assert not any(step.status == FAIL for step in steps), steps
