"""Questions to the hub, the token, and which files of a repository are taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import DynoError
from engine.hub.client import Hub
from engine.hub.curated import CURATED, shortlist
from engine.hub.faults import unreachable
from engine.hub.token import Tokens
from tests.engine.hub.conftest import QUICK, MemoryKeyring
from tests.engine.hub.hub_server import COMMIT, TOKEN, Fault, HubServer

SHARDED = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors.index.json": b"{}",
           "model-00001-of-00002.safetensors": b"a" * 10, "model-00002-of-00002.safetensors": b"b" * 20,
           "consolidated.safetensors": b"c" * 30, "pytorch_model.bin": b"d", "onnx/model.onnx": b"e",
           "LICENSE": b"f", "adapter_model.safetensors": b"g"}


def test_a_search_tells_names_sizes_and_what_is_gated(server: HubServer, hub: Hub) -> None:
    server.add("big/Alpha-1B", files={}, gated=True, licence="llama3.2")
    server.add("small/alpha", files={})
    server.add("other/beta", files={})
    hits = hub.search("alpha")
    assert [(h.repo, h.gated, h.licence, h.parameters, h.nbytes) for h in hits] == [
        ("big/Alpha-1B", True, "llama3.2", 1000, 4000), ("small/alpha", False, "apache-2.0", 1000, 4000)]
    assert "pipeline_tag=text-generation" in server.requests[-1].path and "limit=30" in server.requests[-1].path
    assert hub.search("nothing like it") == ()


def test_safetensors_come_with_what_belongs_to_them_and_nothing_else(server: HubServer, hub: Hub) -> None:
    server.add("a/sharded", files=SHARDED)
    found = hub.look("a/sharded")
    choice, = found.choices
    assert sorted(file.name for file in choice.files) == [
        "LICENSE", "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "tokenizer.json"]
    assert choice.nbytes == 10 + 20 + 1 + 6 and found.revision == COMMIT
    hashes = {file.name: (len(file.sha256), len(file.git_sha1)) for file in choice.files}
    assert hashes["model-00001-of-00002.safetensors"] == (64, 0) and hashes["config.json"] == (0, 40)


def test_each_gguf_file_is_a_choice_of_its_own(server: HubServer, hub: Hub) -> None:
    server.add("a/quantized-GGUF", files={"m-Q8_0.gguf": b"8" * 80, "m-Q4_0.gguf": b"4" * 40, "README.md": b"x",
                                          "m-f32-00001-of-00002.gguf": b"f"})
    found = hub.look("a/quantized-GGUF")
    assert [choice.key for choice in found.choices] == ["m-Q4_0.gguf", "m-Q8_0.gguf"]
    assert [file.name for file in found.choice("m-Q8_0.gguf").files] == ["README.md", "m-Q8_0.gguf"]
    with pytest.raises(DynoError, match="has no file nothing"):
        found.choice("nothing")


def test_no_way_to_the_hub_is_said_in_plain_words() -> None:
    import socket

    wrapped = OSError("[Errno -2] Name or service not known")
    wrapped.__cause__ = socket.gaierror(-2, "Name or service not known")
    assert "its address cannot be found" in unreachable("https://hub.example", wrapped).summary
    with socket.socket() as taken:  # bound and not listening: a connection is refused
        taken.bind(("127.0.0.1", 0))
        hub = Hub(f"http://127.0.0.1:{taken.getsockname()[1]}", patience=QUICK)
        with pytest.raises(DynoError, match="nothing answers there"):
            hub.search("alpha")
    assert "[Errno" not in unreachable("https://hub.example", OSError("[Errno 5] a strange one")).summary


def test_a_repository_of_pickles_offers_nothing_and_says_why(server: HubServer, hub: Hub) -> None:
    server.add("a/old", files={"config.json": b"{}", "pytorch_model.bin": b"x"})
    found = hub.look("a/old")
    assert found.choices == ()
    with pytest.raises(DynoError, match="only pickled weights, which can run code"):
        found.choice()


def test_file_names_that_lead_elsewhere_are_not_offered(server: HubServer, hub: Hub) -> None:
    server.add("a/evil", files={"config.json": b"{}", "../../x.safetensors": b"x", "sub/model.safetensors": b"y",
                                "model.safetensors": b"z", "..\\w.gguf": b"w"})
    choice, = hub.look("a/evil").choices
    assert sorted(file.name for file in choice.files) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["../etc", "a/b/c", "a b", "", "a--b/c", "a/..", "http://x"])
def test_a_name_that_is_none_is_never_asked_for(server: HubServer, hub: Hub, name: str) -> None:
    with pytest.raises(DynoError, match="no name of a model"):
        hub.look(name)
    assert not server.requests


def test_absent_private_and_gated_models_each_have_their_sentence(server: HubServer) -> None:
    server.add("a/private", files={}, private=True)
    server.add("a/gated", files=SHARDED, gated=True)
    nobody, somebody = Hub(server.url, patience=QUICK), Hub(server.url, TOKEN, patience=QUICK)
    with pytest.raises(DynoError, match="a/none is not on the hub, or not open to everybody"):
        nobody.look("a/none")
    with pytest.raises(DynoError, match=r"There is no model a/none on 127\.0\.0\.1"):
        somebody.look("a/none")
    with pytest.raises(DynoError, match="not open to everybody"):
        nobody.look("a/private")
    assert somebody.look("a/private").repo == "a/private"
    assert nobody.look("a/gated").gated  # what it holds may be read, its files may not
    with pytest.raises(DynoError, match="does not accept the access token"):
        Hub(server.url, "hf_wrong", patience=QUICK).look("a/gated")
    with pytest.raises(DynoError, match="has no such revision"):
        nobody.look("a/gated", "no-such-branch")


@pytest.mark.parametrize(("fault", "words"), [
    (Fault(status=429, headers={"Retry-After": "60"}), "Resume in 60 s"),
    (Fault(status=429, headers={"RateLimit": '"api";r=0;t=55'}), "Resume in 55 s"),
    (Fault(status=503), "has trouble of its own"),
    (Fault(body=b"<html>please log in</html>"), "does not answer as the hub does"),
    (Fault(body=b'{"no": "list"}'), "does not answer as the hub does"),
    (Fault(body=b"[17]"), "does not answer as the hub does"),
    (Fault(body=b"[" * 100_000), "does not answer as the hub does"),
    (Fault(body=b"[" + b" " * (33 << 20) + b"]"), "does not answer as the hub does"),
    (Fault(status=401), r"127\.0\.0\.1:\d+ refuses to be searched \(401\)"),
    (Fault(status=403), r"127\.0\.0\.1:\d+ refuses to be searched \(403\)"),
    (Fault(status=404), r"127\.0\.0\.1:\d+ refuses to be searched \(404\)")])
def test_a_search_that_fails_says_what_and_what_to_do(
        server: HubServer, hub: Hub, fault: Fault, words: str) -> None:
    server.api_faults = [fault]
    with pytest.raises(DynoError, match=words):
        hub.search("alpha")


def test_offline_nothing_is_asked(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DynoError, match="works offline"):
        Hub(server.url, offline=True).search("x")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DynoError, match="works offline"):
        Hub(server.url).look("a/b")
    assert not server.requests


def test_a_mirror_is_taken_from_the_environment(server: HubServer) -> None:
    server.add("a/model", files=SHARDED)
    assert Hub().look("a/model").revision == COMMIT  # HF_ENDPOINT leads there


def test_a_token_is_kept_in_the_keyring_for_one_hub(keys: MemoryKeyring) -> None:
    tokens = Tokens()
    assert tokens.keep("https://one", "hf_abc").where == "keyring"
    assert list(keys.kept.values()) == ["hf_abc"]
    assert Tokens().get("https://one") == "hf_abc" and Tokens().get("https://two") == ""
    assert tokens.own("https://one").where == "keyring"
    assert tokens.keep("https://one", "").where == ""
    assert not keys.kept and Tokens().get("https://one") == ""


def test_without_a_keyring_a_token_stays_in_memory_and_that_is_said(tmp_path: Path) -> None:
    import keyring
    from keyring.backends.fail import Keyring

    before = keyring.get_keyring()
    keyring.set_keyring(Keyring())  # what keyring itself takes where it finds no backend
    try:
        tokens = Tokens()
        kept = tokens.keep("https://one", "hf_abc")
        assert kept.where == "memory" and kept.reason == "no keyring was found on this system"
        assert tokens.get("https://one") == "hf_abc" and tokens.own("https://one") == kept
        assert Tokens().get("https://one") == ""
        tokens.keep("https://one", "")
        assert tokens.get("https://one") == ""
    finally:
        keyring.set_keyring(before)


def test_the_short_list_is_found_by_words() -> None:
    assert len({hit.repo for hit in CURATED}) == len(CURATED)
    assert all(hit.nbytes and hit.licence and hit.parameters for hit in CURATED)
    assert [hit.repo for hit in shortlist("qwen3 0.6")] == ["Qwen/Qwen3-0.6B"]
    assert shortlist("") == CURATED


def test_a_borrowed_token_goes_to_the_hub_it_is_for_and_no_token_goes_in_clear_text(
        keys: MemoryKeyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_borrowed")
    monkeypatch.delenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", raising=False)
    tokens = Tokens()
    assert tokens.get("https://huggingface.co") == "hf_borrowed"
    assert tokens.get("https://mirror.example") == tokens.get("http://huggingface.co") == ""
    for hub in ("http://mirror.example", "http://127.0.0.1:8080"):
        tokens.keep(hub, "hf_own")
    assert tokens.get("http://mirror.example") == "" and tokens.get("http://127.0.0.1:8080") == "hf_own"


@pytest.mark.parametrize(("names", "chosen"), [
    (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "consolidated.safetensors"],
     ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]),
    (["weights-1-of-2.safetensors", "weights-2-of-2.safetensors", "model.safetensors"],
     ["weights-1-of-2.safetensors", "weights-2-of-2.safetensors"]),
    (["model-00001.safetensors", "model-00002.safetensors", "consolidated.00.safetensors"],
     ["model-00001.safetensors", "model-00002.safetensors"]),
    (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "x-1-of-3.safetensors",
      "x-2-of-3.safetensors", "x-3-of-3.safetensors"],
     ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])])
def test_shards_are_found_whatever_they_are_called(server: HubServer, hub: Hub, names: list[str],
                                                   chosen: list[str]) -> None:
    server.add("a/odd", files=dict.fromkeys((*names, "config.json", "model.safetensors.index.json"), b"{}"))
    files = [file.name for file in hub.look("a/odd").choices[0].files]
    assert [name for name in files if name.endswith(".safetensors")] == chosen
    assert "model.safetensors.index.json" in files
