"""What takes a machine's speed away for a while, read from a file system of our own."""

import dataclasses
import os
from pathlib import Path

import pytest

from hardware import Device
from hardware.loop.surroundings import Surroundings

DEVICE = Device("test", "cpu", "torch", "2", "cpu", threads=2, batch_size=1)
CPU = "sys/devices/system/cpu"


class Machine:
    """A folder as the root of a file system, and a clock."""

    def __init__(self, root: Path) -> None:
        self.root, self.seconds, self.cores = root, 0.0, 4
        self.ticks(0)

    def write(self, name: str, text: object) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def ticks(self, busy: int, steal: int = 0) -> None:
        self.write("proc/stat", f"cpu  {busy} 0 0 99999 77 0 0 {steal} 0 0\ncpu0 1 2 3")

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def machine(tmp_path, monkeypatch):
    machine = Machine(tmp_path)
    monkeypatch.setattr("hardware.loop.surroundings.time", machine)
    monkeypatch.setattr("hardware.loop.surroundings._core", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(machine.cores)), raising=False)
    return machine


def asked(machine: Machine, changes=lambda: None, device: Device = DEVICE) -> list[str]:
    """What is told after a second in which something changed."""
    surroundings = Surroundings(device, root=machine.root)
    machine.seconds += 1
    changes()
    found = surroundings.disturbances()
    machine.seconds += 1
    # It tells of what was since the last question, and no more of what was before.
    assert [line for line in surroundings.disturbances() if "%" in line and "clocked" not in line] == []
    return found


def test_of_a_quiet_machine_and_of_one_that_tells_nothing_nothing_is_said(machine):
    assert asked(machine, lambda: machine.ticks(400)) == []
    (machine.root / "proc/stat").unlink()
    assert asked(machine) == []
    machine.write("proc/stat", "cpu 1 2")
    assert asked(machine) == []


def test_a_busy_machine_is_no_matter(machine):
    """It slows all networks of a turn alike, and the analysis takes it out."""
    assert asked(machine, lambda: machine.ticks(busy=10**6)) == []


def test_steal_is_told(machine):
    (line,) = asked(machine, lambda: machine.ticks(80, steal=20))
    assert line == "the host of this machine gave 20% of its time to others"
    assert asked(machine, lambda: machine.ticks(170, steal=28)) == []  # 8 of 98
    assert asked(machine, lambda: machine.ticks(171, steal=30)) == []  # a few ticks are chance


@pytest.mark.parametrize(
    ("cgroup", "group", "name", "unit"),
    [
        ("0::/", "sys/fs/cgroup", "throttled_usec", 10**6),
        ("0::/user.slice/job.scope", "sys/fs/cgroup/user.slice/job.scope", "throttled_usec", 10**6),
        ("0::/user.slice/job.scope", "sys/fs/cgroup/user.slice", "throttled_usec", 10**6),  # its parent's quota
        ("0::/docker/the/hosts/name", "sys/fs/cgroup", "throttled_usec", 10**6),
        ("4:cpu,cpuacct:/docker/abc", "sys/fs/cgroup/cpu,cpuacct/docker/abc", "throttled_time", 10**9),
        ("4:cpu:/docker/abc", "sys/fs/cgroup/cpu", "throttled_time", 10**9),
        ("4:cpu,cpuacct:/docker/abc", "sys/fs/cgroup/cpu/docker/abc", "throttled_time", 10**9),
    ],
)
def test_a_quota_that_stops_the_container_is_told(machine, cgroup, group, name, unit):
    def stat(seconds):
        machine.write(f"{group}/cpu.stat", f"usage_usec 5\nnr_throttled 3\n{name} {int((7 + seconds) * unit)}")

    machine.write("proc/self/cgroup", f"{cgroup}\n3:memory:/else")
    stat(0.0)
    assert asked(machine, lambda: stat(0.01)) == []
    stat(0.0)
    (line,) = asked(machine, lambda: stat(0.3))
    assert line == "the CPU quota of this container stopped it for 30% of the time"
    stat(0.0)
    (line,) = asked(machine, lambda: stat(5.0))  # of several cores together
    assert "100%" in line


def test_heat_is_told(machine):
    for core in range(4):
        machine.write(f"{CPU}/cpu{core}/thermal_throttle/core_throttle_count", 5)
    assert asked(machine) == []
    hot = f"{CPU}/cpu3/thermal_throttle/core_throttle_count"
    assert asked(machine, lambda: machine.write(hot, 6)) == ["the CPU throttled itself (heat)"]


def test_fewer_cores_than_threads_are_told(machine):
    machine.cores = 1
    assert asked(machine) == ["2 threads have 1 core only"]
    assert asked(machine, device=dataclasses.replace(DEVICE, threads=1)) == []


def test_a_clock_far_below_what_the_core_keeps_up_is_told(machine):
    machine.write(f"{CPU}/cpu2/cpufreq/cpuinfo_max_freq", 4_000_000)
    machine.write(f"{CPU}/cpu2/cpufreq/scaling_cur_freq", 3_000_000)
    assert asked(machine) == []
    machine.write(f"{CPU}/cpu2/cpufreq/scaling_cur_freq", 2_000_000)
    assert asked(machine) == ["the CPU is clocked down to 50% of its frequency"]
    machine.write(f"{CPU}/cpu2/cpufreq/base_frequency", 2_200_000)  # the highest is for moments
    assert asked(machine) == []
    machine.write(f"{CPU}/cpu2/cpufreq/scaling_cur_freq", 800_000)
    assert asked(machine) == ["the CPU is clocked down to 36% of its frequency"]


def test_a_gpu_tells_for_itself(machine):
    state = {"throttled": 0.0, "sm_clock_hz": 1e9}
    gpu = Surroundings(DEVICE, lambda: state, root=machine.root)
    machine.ticks(80, steal=90)
    assert gpu.disturbances() == []
    state["throttled"] = 1.0
    assert gpu.disturbances() == ["the GPU throttled itself (heat or power)"]
    assert Surroundings(DEVICE, dict, root=machine.root).disturbances() == []


def test_this_machine_is_asked():
    assert all(isinstance(line, str) for line in Surroundings(DEVICE).disturbances())
