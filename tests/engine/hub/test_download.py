"""Downloads against a hub that misbehaves: whatever happens, what counts as a model is whole."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import DynoError
from engine.hub.catalogue import Catalogue
from engine.hub.client import Hub, Patience
from engine.hub.download import Step, arrived, begin, discard, plan, run, source, unfinished
from engine.hub.library import Library
from engine.hub.records import DownloadPlan
from engine.hub.transfer import Pace, Stopped, Stopper, Transfer
from tests.conftest import ROOT
from tests.engine.hub.conftest import QUICK
from tests.engine.hub.hub_server import COMMIT, TOKEN, Fault, HubServer

REPO = "someone/tiny-llama"
FOLDER = "someone--tiny-llama"
WEIGHTS = "model.safetensors"
CARD = "---\nlicense: apache-2.0\n---\n# Tiny\n"


@pytest.fixture
def weights(llama_folder: Path) -> bytes:
    return (llama_folder / "model.safetensors").read_bytes()


@pytest.fixture
def repository(server: HubServer, llama_folder: Path) -> HubServer:
    server.add(REPO, llama_folder, files={"README.md": CARD.encode(), "pytorch_model.bin": b"no", "notes.txt": b"no"})
    return server


def planned(hub: Hub, models: Path, key: str = "") -> DownloadPlan:
    return plan(hub.look(REPO), key, hub.url, models)


def fetched(hub: Hub, models: Path, stopper: Stopper | None = None) -> Path:
    return run(models, planned(hub, models), hub, stopper or Stopper(), lambda _step: None)


def listed(models: Path, data: Path) -> list[str]:
    """Names of the models below a folder that the catalogue calls ready."""
    found = Catalogue(Library(data), models, cache=data / "no cache").scan()
    return [model.name for model in found if model.place == "app" and model.ready]


def assert_whole(path: Path, folder: Path) -> None:
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (path / name).read_bytes() == (folder / name).read_bytes(), name
    assert not list(path.glob("*.incomplete"))


def test_a_model_arrives_whole_and_nothing_that_was_not_chosen(
        repository: HubServer, hub: Hub, models: Path, llama_folder: Path, tmp_path: Path) -> None:
    path = fetched(hub, models)
    assert path == models / FOLDER
    assert_whole(path, llama_folder)
    assert sorted(p.name for p in path.iterdir()) == ["README.md", "config.json", "gpt-dyno.json", "model.safetensors",
                                                      "tokenizer.json", "tokenizer_config.json"]
    assert listed(models, tmp_path) == [REPO]
    made = source(path)
    assert made is not None and (made.repo, made.revision, made.licence) == (REPO, COMMIT, "apache-2.0")
    asked = len(repository.requests)
    assert run(models, planned(hub, models), hub, Stopper(), lambda _s: None) == path
    assert len(repository.requests) == asked + 1  # only what the repository holds was asked


def test_what_was_downloaded_is_opened_by_the_engine(
        repository: HubServer, hub: Hub, models: Path, llama_folder: Path) -> None:
    import torch

    from engine.models.checkpoint import load_masters

    got, made = load_masters(fetched(hub, models)), load_masters(llama_folder)
    assert all(torch.equal(got[name], made[name]) for name in made)


def test_twenty_cuts_at_random_points_cost_nothing_but_requests(
        repository: HubServer, hub: Hub, models: Path, llama_folder: Path, weights: bytes, tmp_path: Path) -> None:
    moments = random.Random(20)
    points = sorted(moments.sample(range(1, len(weights)), 20))
    steps = [after - before for before, after in zip([0, *points], points, strict=False)]
    repository.faults = [Fault(file=WEIGHTS, after=step, reset=bool(n % 2)) for n, step in enumerate(steps)]
    seen: list[list[str]] = []
    what = planned(hub, models)
    path = run(models, what, hub, Stopper(), lambda _step: seen.append(listed(models, tmp_path)))
    assert_whole(path, llama_folder)
    asked = [request.range for request in repository.asked("sig=abc")]
    assert len(asked) >= 21 and not repository.faults
    assert asked[0] == "" and all(text.startswith("bytes=") for text in asked[1:])
    starts = [int(text.removeprefix("bytes=").rstrip("-") or 0) for text in asked]
    assert starts == sorted(starts)
    # A reset may destroy what the receiver's system had not handed over yet; that is asked for again, nothing else.
    assert repository.sent < 2 * len(weights)
    assert not any(seen), "a model that is on its way was listed as ready"


def test_cuts_by_closing_lose_not_one_byte(
        repository: HubServer, hub: Hub, models: Path, llama_folder: Path, weights: bytes) -> None:
    repository.faults = [Fault(file=WEIGHTS, after=n) for n in (100, 2000, 1, 30_000)]
    assert_whole(fetched(hub, models), llama_folder)
    total = sum(len(body) for name, body in repository.repositories[REPO].files.items() if name in (
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"))
    assert repository.sent == total


_CHILD = """
import sys
from pathlib import Path
from engine.hub import download
from engine.hub.client import Hub
from engine.hub.transfer import Stopper
hub, models = Hub(), Path(sys.argv[2])
download.run(models, download.plan(hub.look(sys.argv[1]), "", hub.url, models), hub, Stopper(), lambda step: None)
"""


def test_killed_at_any_moment_it_goes_on_where_it_was(
        repository: HubServer, hub: Hub, models: Path, llama_folder: Path, weights: bytes, tmp_path: Path) -> None:
    points = sorted(random.Random(9).sample(range(1, len(weights)), 5))
    growing, have = models / f"{FOLDER}.part" / "model.safetensors.incomplete", 0
    for point in points:
        hold = Fault(file=WEIGHTS, after=point - have, hold=True)
        repository.faults = [hold]
        child = subprocess.Popen([sys.executable, "-c", _CHILD, REPO, str(models)], cwd=ROOT, stderr=subprocess.PIPE)
        try:
            assert hold.held.wait(60), child.stderr.read() if child.poll() is not None else "no request came"
            _until(lambda at=point: growing.exists() and growing.stat().st_size == at)
        finally:
            child.kill()
            child.communicate()
        have = point
        assert listed(models, tmp_path) == []
        assert [p.repo for p in unfinished(models)] == [REPO]
    assert_whole(fetched(hub, models), llama_folder)
    assert listed(models, tmp_path) == [REPO]
    asked = [request.range for request in repository.asked("sig=abc")]
    assert asked == ["", *(f"bytes={point}-" for point in points)]


def _until(condition: object, timeout_s: float = 30.0) -> None:
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.01)):
        if condition():  # type: ignore[operator]
            return
        pause.wait(0.01)
    raise AssertionError("waited in vain")


def test_a_wrong_hash_is_never_used(repository: HubServer, hub: Hub, models: Path, weights: bytes,
                                    tmp_path: Path) -> None:
    other = bytes([weights[0] ^ 1]) + weights[1:]
    repository.faults = [Fault(file=WEIGHTS, body=other)]
    with pytest.raises(DynoError, match=r"model\.safetensors arrived damaged") as raised:
        fetched(hub, models)
    assert "thrown away" in raised.value.summary and "Resume" in raised.value.hint
    part = models / f"{FOLDER}.part"
    assert not (models / FOLDER).exists()
    assert not (part / "model.safetensors").exists() and not (part / "model.safetensors.incomplete").exists()
    assert listed(models, tmp_path) == []


def test_small_files_are_checked_too(repository: HubServer, hub: Hub, models: Path) -> None:
    config = repository.repositories[REPO].files["config.json"]
    repository.faults = [Fault(file="config.json", body=config.replace(b"64", b"65"))]
    with pytest.raises(DynoError, match=r"config\.json arrived damaged"):
        fetched(hub, models)
    assert not (models / FOLDER).exists()


def test_pieces_that_do_not_belong_together_are_fetched_anew(
        repository: HubServer, hub: Hub, models: Path, llama_folder: Path) -> None:
    what = planned(hub, models)
    begin(models, what)
    (models / f"{FOLDER}.part" / "model.safetensors.incomplete").write_bytes(b"x" * 5000)
    path = run(models, what, hub, Stopper(), lambda _step: None)
    assert_whole(path, llama_folder)
    assert [request.range for request in repository.asked("sig=abc")] == ["bytes=5000-", ""]


def test_a_server_that_ignores_ranges_is_read_from_the_start(
        repository: HubServer, hub: Hub, models: Path, llama_folder: Path) -> None:
    what = planned(hub, models)
    begin(models, what)
    begun = models / f"{FOLDER}.part" / "model.safetensors.incomplete"
    begun.write_bytes((llama_folder / "model.safetensors").read_bytes()[:777])
    repository.faults = [Fault(file=WEIGHTS, plain=True)]
    assert_whole(run(models, what, hub, Stopper(), lambda _step: None), llama_folder)


def test_more_bytes_than_promised_are_damage(repository: HubServer, hub: Hub, models: Path, weights: bytes) -> None:
    repository.faults = [Fault(file=WEIGHTS, body=weights + b"more")]
    with pytest.raises(DynoError, match="damaged"):
        fetched(hub, models)


def test_a_newer_commit_does_not_mix_with_an_older_one(
        repository: HubServer, hub: Hub, models: Path, llama_folder: Path) -> None:
    held = repository.repositories[REPO]
    right = held.files["config.json"]
    held.files["config.json"] = b"{}"
    begin(models, planned(hub, models))
    (models / f"{FOLDER}.part" / "config.json").write_text("{}")
    held.files["config.json"], held.commit = right, "a" * 40
    path = fetched(hub, models)
    assert_whole(path, llama_folder)
    repository.repositories[REPO].commit = "b" * 40
    second = fetched(hub, models)
    assert second.name == f"{FOLDER}@bbbbbbbb" and path.exists()


def test_pausing_ends_a_read_that_waits_for_the_network_and_keeps_what_came(
        repository: HubServer, models: Path, llama_folder: Path) -> None:
    hub = Hub(repository.url, patience=Patience(read_s=600.0))
    hold = Fault(file=WEIGHTS, after=9000, hold=True)
    repository.faults = [hold]
    stopper, ended = Stopper(), threading.Event()

    def work() -> None:
        with pytest.raises(Stopped):
            fetched(hub, models, stopper)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert hold.held.wait(30)
    growing = models / f"{FOLDER}.part" / "model.safetensors.incomplete"
    _until(lambda: growing.exists() and growing.stat().st_size == 9000)
    stopper.stop()
    assert ended.wait(20), "the pause waited for the network"
    thread.join()
    assert arrived(models, unfinished(models)[0]) > 9000
    assert_whole(fetched(Hub(repository.url, patience=QUICK), models), llama_folder)
    assert repository.asked("sig=abc")[-1].range == "bytes=9000-"


def test_a_network_that_falls_silent_is_asked_again(
        repository: HubServer, models: Path, llama_folder: Path) -> None:
    hub = Hub(repository.url, patience=Patience(read_s=0.2, first_wait_s=0.0))
    repository.faults = [Fault(file=WEIGHTS, after=5000, hold=True)]
    assert_whole(fetched(hub, models), llama_folder)
    assert repository.asked("sig=abc")[-1].range == "bytes=5000-"


@pytest.mark.parametrize(("fault", "words", "remedy"), [
    (Fault(status=401), "is not on the hub, or not open", "access token"),
    (Fault(status=403, headers={"X-Error-Code": "GatedRepo"}), "is gated", "Accept its terms"),
    (Fault(status=404, headers={"X-Error-Code": "EntryNotFound"}), "has no file", "Look the model up again"),
    (Fault(status=429, headers={"Retry-After": "300"}), "fewer requests", "Resume in 300 s"),
    (Fault(status=418), r"refused the request \(418\)", "Try again"),
])
def test_each_fault_has_its_sentence_and_its_remedy(
        repository: HubServer, hub: Hub, models: Path, fault: Fault, words: str, remedy: str) -> None:
    repository.faults = [Fault(), fault]
    with pytest.raises(DynoError, match=words) as raised:
        fetched(hub, models)
    assert remedy in raised.value.hint
    assert len(unfinished(models)) == 1


def test_a_short_wait_that_the_hub_asks_for_is_kept_and_a_failing_hub_is_tried_again(
        repository: HubServer, hub: Hub, models: Path, llama_folder: Path) -> None:
    repository.faults = [Fault(status=429, headers={"Retry-After": "0"}), Fault(status=503), Fault(status=502)]
    notes: list[str] = []
    path = run(models, planned(hub, models), hub, Stopper(), lambda step: notes.append(step.note))
    assert_whole(path, llama_folder)
    assert any("fewer requests" in note for note in notes) and any("(503)" in note for note in notes)
    repository.faults = [Fault(status=500)] * 20
    shutil.rmtree(path)
    with pytest.raises(DynoError, match=r"has trouble of its own \(500\)"):
        fetched(hub, models)
    assert len(repository.faults) == 20 - hub.patience.tries


def test_a_hub_that_is_not_there_is_named(models: Path, repository: HubServer, hub: Hub) -> None:
    what = planned(hub, models)
    with pytest.raises(DynoError, match=r"127\.0\.0\.1:9 cannot be reached") as raised:
        run(models, what, Hub("http://127.0.0.1:9", patience=QUICK), Stopper(), lambda _step: None)
    assert "HF_ENDPOINT" in raised.value.hint


def test_a_download_larger_than_the_disk_does_not_begin(repository: HubServer, hub: Hub, models: Path) -> None:
    repository.repositories[REPO].claimed["model.safetensors"] = 1 << 60
    with pytest.raises(DynoError, match=r"needs 1152921504.\d+ GB more") as raised:
        fetched(hub, models)
    assert "GPT_DYNO_MODELS" in raised.value.hint
    assert not repository.asked("sig=abc")


def test_a_disk_that_fills_up_says_so_and_the_download_goes_on_when_there_is_room(
        repository: HubServer, models: Path, llama_folder: Path, tmp_path: Path) -> None:
    """A real full disk: a file system of 160 KB in a name space of its own, which is enlarged later."""
    if shutil.which("unshare") is None or subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"],
            capture_output=True).returncode:
        pytest.skip("this system lets no user mount a small file system")
    program = f"""
import subprocess
from pathlib import Path
from engine.errors import DynoError
from engine.hub import download
from engine.hub.client import Hub, Patience
from engine.hub.transfer import Stopper
models = Path("/mnt")
hub = Hub({repository.url!r}, patience=Patience(tries=1))
what = download.plan(hub.look({REPO!r}), "", hub.url, models)
class Room:  # the check before it is another test's
    free = 1 << 40
real, download.shutil.disk_usage = download.shutil.disk_usage, lambda _path: Room
try:
    download.run(models, what, hub, Stopper(), lambda step: None)
except DynoError as error:
    print(error)
print(download.arrived(models, what) > 0)
subprocess.run(["mount", "-o", "remount,size=64m", "none", "/mnt"], check=True)
download.shutil.disk_usage = real
path = download.run(models, what, hub, Stopper(), lambda step: None)
print((path / "model.safetensors").read_bytes() == Path({str(llama_folder / 'model.safetensors')!r}).read_bytes())
"""
    child = subprocess.run(
        ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=160k none /mnt && exec "$0" "$@"', sys.executable, "-c",
         program], cwd=ROOT, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert child.stdout.splitlines() == [
        "The disk is full. Free some space and resume: what has arrived is kept.", "True", "True"], child.stderr


def test_two_programs_do_not_write_the_same_download(repository: HubServer, hub: Hub, models: Path) -> None:
    hold = Fault(after=10, hold=True)
    repository.faults = [hold]
    stopper = Stopper()

    def work() -> None:
        with pytest.raises(Stopped):
            fetched(hub, models, stopper)

    thread = threading.Thread(target=work)
    thread.start()
    assert hold.held.wait(30)
    with pytest.raises(DynoError, match="Another program downloads"):
        fetched(hub, models)
    with pytest.raises(DynoError, match="Another program downloads"):
        discard(models, unfinished(models)[0])
    stopper.stop()
    thread.join()
    discard(models, unfinished(models)[0])
    assert unfinished(models) == () and not (models / f"{FOLDER}.part").exists()


def test_the_token_goes_to_the_hub_and_never_to_where_it_redirects(
        repository: HubServer, models: Path, llama_folder: Path) -> None:
    repository.repositories[REPO].gated = repository.repositories[REPO].granted = True
    hub = Hub(repository.url, TOKEN, patience=QUICK)
    assert_whole(fetched(hub, models), llama_folder)
    asked = repository.requests
    assert all(r.authorization == f"Bearer {TOKEN}" for r in asked if "sig=abc" not in r.path)
    assert [r.authorization for r in asked if "sig=abc" in r.path] == [""]
    assert {r.agent for r in asked} == {"gpt-dyno"}  # nobody is told what is installed here
    assert "hf_" not in repr(hub)


def test_progress_counts_up_to_the_whole(repository: HubServer, hub: Hub, models: Path) -> None:
    steps: list[Step] = []
    what = planned(hub, models)
    run(models, what, hub, Stopper(), steps.append)
    done = [step.done for step in steps if not step.checking]
    assert done == sorted(done) and done[-1] == what.nbytes
    assert {step.file for step in steps} == {file.name for file in what.files}
    assert any(step.checking for step in steps)


def test_the_pace_is_that_of_the_last_seconds() -> None:
    pace = Pace(window_s=5.0)
    assert pace.speed() == 0.0 and pace.left_s(10) == -1.0
    for second in range(20):
        pace.note(1000 * second if second < 10 else 10_000 + 5000 * (second - 10), float(second))
    assert pace.speed() == pytest.approx(5000)
    assert pace.left_s(20_000) == pytest.approx(4.0)
    pace.note(0, 20.0)
    assert pace.speed() == 0.0


@pytest.mark.parametrize("name", ["../evil", "a/b", "..", "", "C:evil", "a\\b", "x\0y", "new\nline"])
def test_a_plan_with_names_that_lead_elsewhere_is_no_plan(name: str) -> None:
    raw = {"repo": "a/b", "revision": "c", "folder": "f",
           "files": [{"name": name, "bytes": 1, "sha256": "", "git_sha1": ""}]}
    with pytest.raises(ValueError):
        DownloadPlan.from_json(raw)
    with pytest.raises(ValueError):
        DownloadPlan.from_json(raw | {"folder": name, "files": []})


def test_a_moved_commit_keeps_what_has_the_same_hash(repository: HubServer, hub: Hub, models: Path,
                                                     llama_folder: Path, weights: bytes) -> None:
    begin(models, planned(hub, models))
    part = models / f"{FOLDER}.part"
    (part / "model.safetensors.incomplete").write_bytes(weights[:7000])
    (part / "config.json").write_bytes((llama_folder / "config.json").read_bytes())
    held = repository.repositories[REPO]
    held.commit = "c" * 40
    held.files["config.json"] = held.files["config.json"] + b"\n"
    path = fetched(hub, models)
    assert repository.asked("sig=abc")[-1].range == "bytes=7000-", "the same weights were fetched anew"
    assert (path / "config.json").read_bytes() == held.files["config.json"]
    assert (path / "model.safetensors").read_bytes() == weights


def test_pieces_of_one_run_that_do_not_belong_together_are_fetched_anew_once(
        repository: HubServer, hub: Hub, models: Path, llama_folder: Path, weights: bytes) -> None:
    wrong = bytes([weights[0] ^ 1]) + weights[1:]
    repository.faults = [Fault(file=WEIGHTS, after=5000, body=wrong)]  # its first piece is another file's
    assert_whole(fetched(hub, models), llama_folder)
    assert [request.range for request in repository.asked("sig=abc")] == ["", "bytes=5000-", ""]


def test_pieces_that_never_belong_together_end_as_damage(repository: HubServer, hub: Hub, models: Path,
                                                         weights: bytes) -> None:
    wrong = bytes([weights[0] ^ 1]) + weights[1:]
    repository.faults = [Fault(file=WEIGHTS, after=5000, body=wrong), Fault(file=WEIGHTS),
                         Fault(file=WEIGHTS, after=5000, body=wrong)]
    with pytest.raises(DynoError, match="arrived damaged"):
        fetched(hub, models)
    assert len(repository.asked("sig=abc")) == 4


def test_pausing_does_not_wait_for_an_answer_that_has_not_begun(repository: HubServer, models: Path,
                                                                llama_folder: Path) -> None:
    hub = Hub(repository.url, patience=Patience(read_s=600.0))
    hold = Fault(file=WEIGHTS, mute=True)
    repository.faults = [hold]
    stopper, ended = Stopper(), threading.Event()

    def work() -> None:
        with pytest.raises(Stopped):
            fetched(hub, models, stopper)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert hold.held.wait(30)
    stopper.stop()
    assert ended.wait(20), "the pause waited for the hub"
    thread.join()
    assert_whole(fetched(Hub(repository.url, patience=QUICK), models), llama_folder)


def test_the_sentence_after_a_refused_rest_promises_nothing(repository: HubServer, hub: Hub, models: Path,
                                                            weights: bytes) -> None:
    what = planned(hub, models)
    file = next(f for f in what.files if f.name == "model.safetensors")
    transfer = Transfer(replace(hub, patience=replace(QUICK, tries=1)), REPO, what.revision, Stopper())
    models.mkdir(parents=True, exist_ok=True)
    (models / "x").write_bytes(weights[:5000])
    repository.faults = [Fault(file=WEIGHTS, status=416)]
    with pytest.raises(DynoError) as raised:
        transfer.fetch(file, models / "x", lambda _n: None)
    assert "kept" not in raised.value.hint and (models / "x").stat().st_size == 0
