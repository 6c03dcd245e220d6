"""Several stores in one process: whose settings are whose, what each is asked, and credentials nowhere to be seen."""

import json
import logging
import traceback

import pytest

from cxr_ray import storage
from cxr_ray.config import ScoreConfig, StorageConfig, StoreConfig, load_yaml
from cxr_ray.errors import ConfigError, CxrRayError, Fault, StorageError
from cxr_ray.storage import stores
from tests.storage import ceph
from tests.storage.faulty import FaultyProxy

SECRET = "wJalrXUtnFEMI-not-to-be-seen"


def test_of_longest_prefix_of_whole_names_wins():
    prefixes = ("s3://", "s3://bucket", "s3://bucket/site a", "s3://bucket/site a/2026/", "s3://other")
    storage.configure(StorageConfig(stores=tuple(StoreConfig(prefix=prefix) for prefix in prefixes)))
    for uri, expected in {
        "s3://bucket/site a/2026/x": 3,
        "s3://bucket/site a/2025/x": 2,
        "s3://bucket/site a": 2,
        "s3://bucket/site ab/x": 1,
        "s3://bucket": 1,
        "s3://bucket2/x": 0,
        "s3://other/x": 4,
    }.items():
        assert stores.current().of(uri).config.prefix == prefixes[expected], uri


def test_two_stores_of_two_makers_in_one_process(s3, s3_endpoint, ceph_endpoint, monkeypatch, tmp_path):
    """moto by the environment, Ceph by a profile, and one fetch over both."""
    credentials = tmp_path / "credentials"
    credentials.write_text(
        f"[hospital]\naws_access_key_id={ceph.ACCESS_KEY}\naws_secret_access_key={ceph.SECRET_KEY}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    other = StoreConfig(prefix="s3://other", endpoint=ceph_endpoint, region="us-east-1", profile="hospital")
    storage.configure(StorageConfig(stores=(other,)))
    stores.current().of("s3://other").client.create_bucket(Bucket="other")
    uris = [f"{s3}/a", "s3://other/a", f"{s3}/b", "s3://other/b"]
    for uri in uris:
        storage.put(uri, uri.encode())
    assert [item.uri for item in storage.list_objects("s3://other")] == ["s3://other/a", "s3://other/b"]
    assert list(storage.fetch([(uri, "", None) for uri in uris])) == [uri.encode() for uri in uris]
    for uri in uris:
        filesystem, path = storage.filesystem(uri)
        with filesystem.open_input_file(path) as file:
            assert file.read() == uri.encode()
        storage.delete(uri)
    stores.current().of("s3://other").client.delete_bucket(Bucket="other")


def test_requests_say_who_pays_as_whom_and_where(s3, s3_endpoint):
    storage.put(f"{s3}/a", b"x")
    with FaultyProxy(s3_endpoint) as proxy:
        paid = StoreConfig(prefix=s3, endpoint=proxy.url, region="eu-central-1", requester_pays=True)
        public = StoreConfig(prefix="s3://public", endpoint=proxy.url, anonymous=True, path_style=True)
        storage.configure(StorageConfig(stores=(paid, public)))
        storage.get(f"{s3}/a")
        storage.stat(f"{s3}/a")
        list(storage.list_objects(s3))
        with pytest.raises(StorageError, match="NoSuchBucket"):
            storage.get("s3://public/a")
    *asked, anonymous = proxy.requests
    assert [request.method for request in asked] == ["GET", "HEAD", "GET"]
    for request in asked:
        assert request.headers["x-amz-request-payer"] == "requester"
        assert "/eu-central-1/s3/" in request.headers["authorization"]
    assert anonymous.key == "public/a"
    assert "authorization" not in anonymous.headers
    assert "x-amz-request-payer" not in anonymous.headers


def test_filesystem_requester_pays_says_what_to_do():
    storage.configure(StorageConfig(stores=(StoreConfig(prefix="s3://paid", requester_pays=True),)))
    with pytest.raises(ConfigError, match="cannot be read as a table where the requester pays; copy it"):
        storage.filesystem("s3://paid/labels.parquet")


def test_get_profile_that_does_not_exist_denied_in_a_sentence(s3):
    storage.configure(StorageConfig(stores=(StoreConfig(profile="absent"),)))
    for read in (lambda: storage.get(f"{s3}/a"), lambda: storage.filesystem(f"{s3}/a")):
        with pytest.raises(StorageError, match="ProfileNotFound") as caught:
            read()
        assert caught.value.fault is Fault.ACCESS_DENIED


def test_get_endpoint_of_the_environment_that_is_no_url_said(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"hospital:{SECRET}@store")
    storage.forget_clients()
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL is no URL") as caught:
        storage.get(f"{s3}/a")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prefix": "bucket/x"}, "prefix must be s3://"),
        ({"prefix": "s3:///x"}, "prefix must be s3://"),
        ({"endpoint": "store.example.org"}, "endpoint must be a URL"),
        ({"endpoint": "ftp://store"}, "endpoint must be a URL"),
        ({"endpoint": "https://"}, "endpoint must be a URL"),
        ({"endpoint": "https://store:99999"}, "endpoint must be a URL"),
        ({"endpoint": f"https://user:{SECRET}@store"}, "no user, password or query"),
        ({"endpoint": f"https://store/?key={SECRET}"}, "no user, password or query"),
        ({"anonymous": True, "profile": "a"}, "anonymous goes with neither"),
        ({"secret_access_key": SECRET}, "secret_access_key: Extra inputs are not permitted"),
        ({"requests_per_second": 0}, "requests_per_second: Input should be greater than 0"),
    ],
)
def test_load_yaml_store_that_cannot_be_is_named_without_its_secret(tmp_path, settings, words):
    path = tmp_path / "score.yaml"
    path.write_text(json.dumps({"storage": {"stores": [settings]}}))
    with pytest.raises(ConfigError, match=words) as caught:
        load_yaml(ScoreConfig, path)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_load_yaml_prefix_twice_and_set_of_no_place(tmp_path):
    path = tmp_path / "score.yaml"
    path.write_text(json.dumps({"storage": {"stores": [{"prefix": "s3://a"}, {"prefix": "s3://a"}]}}))
    with pytest.raises(ConfigError, match="names a prefix twice: s3://a"):
        load_yaml(ScoreConfig, path)
    with pytest.raises(ConfigError, match="names no place") as caught:
        load_yaml(ScoreConfig, path, overrides=(f"storage.stores.7.endpoint=https://user:{SECRET}@store",))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_configure_the_same_again_keeps_the_clients():
    config = StorageConfig(stores=(StoreConfig(endpoint="http://127.0.0.1:9", region="us-east-1"),))
    storage.configure(config)
    client = stores.current().of("s3://a/b").client
    storage.configure(StorageConfig.model_validate(config.model_dump(mode="json")))
    assert stores.current().of("s3://c/d").client is client
    storage.configure(config, share=0.5)
    assert storage.configured() == (config, 0.5)


def test_credentials_nowhere_in_settings_sentences_objects_and_logs(s3, s3_endpoint, monkeypatch, caplog, tmp_path):
    """Every text that this process makes while requests succeed and fail in all ways is searched."""
    caplog.set_level(logging.INFO)
    key = "AKIANOTTOBESEENEITHER"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    kinds = [
        "slow_down",
        "forbidden",
        "archived",
        "wrong_region",
        "moved",
        "reset",
        "truncated",
        "bad_request",
        "silence",
    ]
    plan = {f"bucket/archive/{kind}": [kind] * 9 for kind in kinds}
    texts: list[str] = []
    with FaultyProxy(s3_endpoint, plan=plan) as proxy:
        store = StoreConfig(endpoint=proxy.url, region="us-east-1")
        config = ScoreConfig(storage=StorageConfig(stores=(store,), retries=1, pause_seconds=0.01, read_seconds=0.3))
        storage.configure(config.storage)
        storage.forget_clients()
        storage.put(f"{s3}/good", b"x")
        for kind in [*kinds, "absent"]:
            with pytest.raises(CxrRayError) as caught:
                storage.get(f"{s3}/{kind}")
            texts += [str(caught.value), repr(caught.value), "".join(traceback.format_exception(caught.value))]
        listed = list(storage.list_objects(s3))
        texts += [repr(stores.current().of(s3)), repr(stores.current()), repr(storage.filesystem(s3)), repr(listed)]
        texts += [repr(config), config.model_dump_json(), repr(storage.configured())]
        authorised = [request.headers["authorization"] for request in proxy.requests]
    assert all(key in header for header in authorised)  # they were in use
    texts += [record.getMessage() for record in caplog.records]
    assert len(texts) > 40
    for text in texts:
        assert SECRET not in text
        assert key not in text


def test_clients_made_by_many_threads_at_once_are_one(s3):
    from concurrent.futures import ThreadPoolExecutor

    storage.put(f"{s3}/a", b"x")
    storage.forget_clients()
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: stores.current().of(s3).client, range(64)))
    assert len({id(client) for client in made}) == 1
