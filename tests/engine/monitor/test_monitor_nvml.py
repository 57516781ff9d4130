"""The NVML source through the real pynvml, over a fake driver library in a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.monitor.nvml_calls import FOREIGN_PIDS, NO_PROCESS_BYTES, NO_VALUE, NOT_LISTED, throttle_texts
from engine.monitor.nvml_library import NO_CARDS, NOT_OFFERED, TOO_OLD

NO_SUCH_PID = "4999999"  # above Linux' highest pid_max
NOT_AVAILABLE = str(2**64 - 1)


def test_two_cards_yield_every_series_in_its_unit(run_nvml):
    [seen] = run_nvml(FAKE_NVML_COMPUTE="0:self:300,1:self:700")
    assert seen["latest"] == {
        "gpu0_memory_used": 1e9, "gpu0_process_memory": 300, "gpu0_utilisation": 40, "gpu0_power": 123.5,
        "gpu0_temperature": 55, "gpu0_sm_clock": 1800, "gpu0_memory_clock": 9500, "gpu0_throttled": 0,
        "gpu1_memory_used": 1e9, "gpu1_process_memory": 700, "gpu1_utilisation": 41, "gpu1_power": 123.5,
        "gpu1_temperature": 55, "gpu1_sm_clock": 1800, "gpu1_memory_clock": 9500, "gpu1_throttled": 0,
    }
    assert set(seen["reasons"].values()) == {None}
    assert seen["notes"] == [] and seen["unavailable"] is None
    assert seen["driver"] == "555.42"
    assert seen["cards"][1] == {"device": "gpu1", "name": "Fake Card 1", "uuid": "GPU-0000-1",
                                "memory_total_bytes": 8e9, "power_limit_w": 250.0, "energy_offered": True}
    assert seen["energy_j"] == [5000.5, 5000.501, None]
    assert seen["second_by_uuid"] == "gpu1"
    assert seen["scales"]["gpu0_memory_used"] == 8e9 and seen["scales"]["gpu0_power"] == 250.0


def test_what_the_driver_does_not_support_is_a_gap_with_a_reason_and_is_not_asked_again(run_nvml):
    [seen] = run_nvml({"ticks": 3}, FAKE_NVML_FAIL="nvmlDeviceGetPowerUsage@0=3")
    assert seen["latest"]["gpu0_power"] is None and seen["reasons"]["gpu0_power"] == NOT_OFFERED
    assert seen["points"]["gpu0_power"] == 3
    assert seen["latest"]["gpu1_power"] == 123.5 and seen["latest"]["gpu0_temperature"] == 55
    assert seen["calls"]["nvmlDeviceGetPowerUsage"] == 1 + 3
    assert f"gpu0, GPU power: {NOT_OFFERED}" in seen["notes"]


def test_an_old_driver_without_the_newer_symbols_is_read_through_the_older_calls(run_nvml):
    [seen] = run_nvml(flags=("-DOLD_DRIVER",), FAKE_NVML_COMPUTE="0:self:300", FAKE_NVML_EVENTS="4")
    assert seen["latest"]["gpu0_memory_used"] == 1.5e9
    assert seen["latest"]["gpu0_process_memory"] == 300
    assert seen["latest"]["gpu0_throttled"] == 1 and seen["throttle"] == ["power limit"]
    assert seen["reasons"]["gpu0_memory_used"] is None
    assert seen["energy_j"] == [None, None, None]
    assert [card["energy_offered"] for card in seen["cards"]] == [False, False]


def test_a_symbol_missing_altogether_says_that_the_driver_is_too_old(run_nvml):
    [seen] = run_nvml(FAKE_NVML_FAIL="nvmlDeviceGetCurrentClocksEventReasons=13,nvmlDeviceGetTemperature=13",
                      flags=("-DOLD_DRIVER",))
    assert seen["latest"]["gpu0_temperature"] is None
    assert seen["reasons"]["gpu0_temperature"] == TOO_OLD


def test_a_card_that_lacks_a_sensor_is_not_blamed_on_the_age_of_the_driver(run_nvml):
    [seen] = run_nvml(FAKE_NVML_FAIL="nvmlDeviceGetTemperature=3")  # and the library has no later call for it
    assert seen["reasons"]["gpu0_temperature"] == NOT_OFFERED


def test_energy_that_is_not_supported_is_none_and_no_series_suffers(run_nvml):
    [seen] = run_nvml(FAKE_NVML_FAIL="nvmlDeviceGetTotalEnergyConsumption@0=3", FAKE_NVML_COMPUTE="0:self:1,1:self:1")
    assert seen["energy_j"] == [None, 5000.501, None]
    assert set(seen["reasons"].values()) == {None}


def test_no_permission_for_process_lists_leaves_the_other_series(run_nvml):
    [seen] = run_nvml(FAKE_NVML_FAIL="nvmlDeviceGetComputeRunningProcesses_v3=4")
    assert seen["latest"]["gpu0_process_memory"] is None
    assert seen["reasons"]["gpu0_process_memory"] == "The system does not permit this program to read this."
    assert seen["latest"]["gpu0_memory_used"] == 1e9


def test_pids_from_outside_a_container_are_told_apart_from_a_card_not_in_use(run_nvml):
    [seen] = run_nvml(FAKE_NVML_COMPUTE=f"0:{NO_SUCH_PID}:300,1:1:300")
    assert seen["latest"]["gpu0_process_memory"] is None and seen["latest"]["gpu1_process_memory"] is None
    assert seen["reasons"]["gpu0_process_memory"] == FOREIGN_PIDS
    assert seen["reasons"]["gpu1_process_memory"] == NOT_LISTED
    assert seen["notes"] == [f"gpu0, GPU memory, this program: {FOREIGN_PIDS}"]


def test_a_process_in_the_compute_and_the_graphics_list_counts_once_with_the_larger_figure(run_nvml):
    [seen] = run_nvml(FAKE_NVML_COMPUTE=f"0:self:300,0:{NO_SUCH_PID}:9000", FAKE_NVML_GRAPHICS="0:self:320,1:self:5")
    assert seen["latest"]["gpu0_process_memory"] == 320
    assert seen["latest"]["gpu1_process_memory"] == 5


def test_parts_of_a_card_split_by_mig_add_up(run_nvml):
    [seen] = run_nvml(FAKE_NVML_COMPUTE="0:self:300:1,0:self:40:2", FAKE_NVML_GRAPHICS="0:self:300:1")
    assert seen["latest"]["gpu0_process_memory"] == 340


def test_a_process_whose_memory_the_driver_hides_is_a_gap_not_a_zero(run_nvml):
    [seen] = run_nvml(FAKE_NVML_COMPUTE=f"0:self:{NOT_AVAILABLE}")
    assert seen["latest"]["gpu0_process_memory"] is None
    assert seen["reasons"]["gpu0_process_memory"] == NO_PROCESS_BYTES


def test_the_not_available_marker_is_a_gap_not_a_number(run_nvml):
    [seen] = run_nvml(FAKE_NVML_EVENTS=NOT_AVAILABLE)
    assert seen["latest"]["gpu0_throttled"] is None and seen["reasons"]["gpu0_throttled"] == NO_VALUE


def test_a_list_of_drawing_processes_that_fails_does_not_hide_the_computing_ones(run_nvml):
    [seen] = run_nvml(FAKE_NVML_FAIL="nvmlDeviceGetGraphicsRunningProcesses_v3=999", FAKE_NVML_COMPUTE="0:self:300")
    assert seen["latest"]["gpu0_process_memory"] == 300


def test_a_card_lost_while_running_says_so_once_and_the_other_goes_on(run_nvml):
    before, after, later = run_nvml({"ticks": 2}, {"env": {"FAKE_NVML_LOST": "1"}}, {"ticks": 4})
    assert before["latest"]["gpu1_power"] == 123.5
    for seen in (after, later):
        assert {value for key, value in seen["latest"].items() if key.startswith("gpu1")} == {None}
        assert all("lost" in reason for key, reason in seen["reasons"].items() if key.startswith("gpu1"))
        assert seen["latest"]["gpu0_power"] == 123.5
        assert len(seen["notes"]) == 1 and seen["notes"][0].startswith("gpu1 (Fake Card 1): The card stopped answering")
        assert seen["energy_j"][:2] == [5000.5, None]
    assert later["calls"]["nvmlDeviceGetPowerUsage"] - after["calls"]["nvmlDeviceGetPowerUsage"] == 4  # card 0 alone


def test_a_card_that_cannot_be_opened_is_listed_with_its_reason(run_nvml):
    [seen] = run_nvml(FAKE_NVML_FAIL="nvmlDeviceGetHandleByIndex_v2@1=4")
    assert seen["cards"][1]["name"] == "NVIDIA card 1" and seen["cards"][1]["memory_total_bytes"] is None
    assert seen["latest"]["gpu1_power"] is None and seen["latest"]["gpu0_power"] == 123.5
    assert seen["reasons"]["gpu1_power"] == "The system does not permit this program to read this."


def test_an_unknown_error_is_a_gap_and_the_series_returns_when_the_driver_recovers(run_nvml):
    failed, recovered = run_nvml({"env": {"FAKE_NVML_FAIL": "nvmlDeviceGetUtilizationRates=999"}},
                                 {"env": {"FAKE_NVML_FAIL": ""}})
    assert failed["latest"]["gpu0_utilisation"] is None
    assert failed["reasons"]["gpu0_utilisation"] == "The driver reported an error (Unknown Error)."
    assert recovered["latest"]["gpu0_utilisation"] == 40 and recovered["reasons"]["gpu0_utilisation"] is None


def test_a_code_that_pynvml_does_not_know_is_still_a_sentence(run_nvml):
    [seen] = run_nvml(FAKE_NVML_FAIL="nvmlDeviceGetUtilizationRates=777")
    assert seen["reasons"]["gpu0_utilisation"] == "The driver reported an error (Fake Error)."


def test_a_name_that_is_not_text_does_not_stop_the_card(run_nvml):
    [seen] = run_nvml(FAKE_NVML_ODD_NAME="1")
    assert seen["cards"][0]["name"] == "NVIDIA card 0" and seen["latest"]["gpu0_power"] == 123.5


def test_process_lists_are_read_every_fourth_tick_and_never_while_timing(run_nvml):
    first, quiet, after = run_nvml({"ticks": 8}, {"ticks": 8, "quiet": True}, {"ticks": 4},
                                   FAKE_NVML_CARDS="1", FAKE_NVML_COMPUTE="0:self:300")
    assert first["points"] == {**dict.fromkeys(first["points"], 8), "gpu0_process_memory": 2}
    assert quiet["points"]["gpu0_process_memory"] == 2 and quiet["points"]["gpu0_power"] == 16
    assert quiet["calls"]["nvmlDeviceGetComputeRunningProcesses_v3"] == 4  # each reading asks for the size first
    assert after["points"]["gpu0_process_memory"] == 3


@pytest.mark.parametrize(("fail", "words"), [
    ("nvmlInitWithFlags=9", "the NVIDIA driver is not loaded"),
    ("nvmlInitWithFlags=18", "the driver was updated and waits for a restart"),
    ("nvmlInitWithFlags=4", "does not permit this program to ask the driver"),
    ("nvmlInitWithFlags=999", "could not be asked (Unknown Error)"),
    ("nvmlDeviceGetCount_v2=999", "could not be asked (Unknown Error)"),
])
def test_a_driver_that_cannot_be_used_is_one_quiet_sentence(run_nvml, fail, words):
    [seen] = run_nvml({"ticks": 2}, FAKE_NVML_FAIL=fail)
    assert words in seen["unavailable"] and seen["unavailable"].endswith("so the CPU is shown.")
    assert seen["notes"] == [seen["unavailable"]]
    assert seen["latest"] == {} and seen["cards"] == [] and seen["energy_j"] == [None] * 3


def test_a_driver_without_cards_says_so(run_nvml):
    [seen] = run_nvml(FAKE_NVML_CARDS="0")
    assert seen["unavailable"] == NO_CARDS


@pytest.mark.skipif(sys.platform != "linux", reason="the loader's path is arranged as on Linux")
def test_no_library_at_all_is_told_apart_from_a_driver_that_is_not_loaded(tmp_path):
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"not a library")  # hides a real one; the loader rejects it
    root = Path(__file__).parents[3]
    child = subprocess.run([sys.executable, str(Path(__file__).with_name("nvml_child.py")), "[{}]"], text=True,
                           env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(root)},
                           capture_output=True, check=True, timeout=60)
    [seen] = json.loads(child.stdout)
    assert seen["unavailable"] == "No NVIDIA GPU here: no NVML library was found, so the CPU is shown."


def test_idling_and_clocks_somebody_set_are_not_called_throttling():
    assert throttle_texts(0x1 | 0x2 | 0x100) == ()
    assert throttle_texts(0x4 | 0x40) == ("power limit", "temperature limit (hardware)")
