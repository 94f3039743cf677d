"""S3 against moto, which needs nothing but pip."""

from __future__ import annotations

import pytest

from runai_model_streamer import SafetensorsStreamer, list_safetensors, pull_files
from tests.support.models import check_same, make_model, save

pytestmark = pytest.mark.servers


MODEL = make_model(1)


@pytest.fixture
def bucket(moto, use):
    client = moto.client()
    client.create_bucket(Bucket="models")
    client.put_object(Bucket="models", Key="m/model.safetensors", Body=save(MODEL))
    client.put_object(Bucket="models", Key="m/config.json", Body=b"{}")
    client.put_object(Bucket="models", Key="m/a b+c%d//ü", Body=b"odd")
    use({"AWS_ENDPOINT_URL": moto.url})
    use({"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"})


def test_objects_are_listed_and_streamed(bucket):
    paths = list_safetensors("s3://models/m")
    assert paths == ["s3://models/m/model.safetensors"]
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(paths)
        check_same(MODEL, dict(streamer.get_tensors()))


def test_objects_are_pulled(bucket, tmp_path):
    pull_files("s3://models/m", str(tmp_path), ignore_pattern=["*.safetensors"])
    assert (tmp_path / "config.json").read_bytes() == b"{}"
    assert (tmp_path / "a b+c%d" / "ü").read_bytes() == b"odd"


def test_a_missing_object_is_an_error(bucket):
    with pytest.raises(FileNotFoundError):
        with SafetensorsStreamer() as streamer:
            streamer.stream_file("s3://models/none")


def test_lists_go_beyond_a_page(moto, use):
    client = moto.client()
    client.create_bucket(Bucket="many")
    for index in range(1005):
        client.put_object(Bucket="many", Key=f"f/{index:04}.safetensors", Body=b"")
    use({"AWS_ENDPOINT_URL": moto.url})
    use({"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"})
    found = list_safetensors("s3://many/f/")
    assert found == [f"s3://many/f/{index:04}.safetensors" for index in range(1005)]
