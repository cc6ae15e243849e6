"""What a CPU is called: two that compute at different speeds have two names, under every kind of file system."""

import os
from pathlib import Path

import pytest

from hardware.loop.cpu import control_groups, cpu_description

X86 = "processor\t: {i}\nvendor_id\t: GenuineIntel\nmodel name\t: Some Xeon  Gold\ncache size\t: 1 KB\n\n"
ARM = "processor\t: {i}\nBogoMIPS\t: 48.00\nCPU implementer\t: {maker}\nCPU part\t: {part}\nCPU revision\t: 1\n\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Writes files of a machine with `n` processors, of which `allowed` may be used; returns its description."""

    def describe(files: dict[str, str], n: int = 4, allowed: int | None = None) -> str:
        monkeypatch.setattr(os, "cpu_count", lambda: n)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(allowed or n)), raising=False)
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        root.mkdir()
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return cpu_description(str(root))

    return describe


def x86(n=4):
    return {"proc/cpuinfo": "".join(X86.format(i=i) for i in range(n))}


def arm(*parts, maker="0x41", more=""):
    text = "".join(ARM.format(i=i, maker=maker, part=part) for i, part in enumerate(parts))
    return {"proc/cpuinfo": text + more}


def siblings(*groups):
    """Which processors are threads of one core, as lists such as "0,4"."""
    found = {}
    for group in groups:
        for i in group.split(","):
            found[f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list"] = group + "\n"
    return found


def test_a_plain_machine(machine):
    assert machine(x86()) == "Some Xeon Gold, 4 cores"
    assert machine(x86(1), n=1) == "Some Xeon Gold, 1 core"
    assert machine({})  # something is said wherever it is


def test_threads_of_a_core_are_no_cores(machine):
    two_each = siblings("0,2", "1,3")
    assert machine(x86() | two_each) == "Some Xeon Gold, 2 cores of 2 threads"
    assert machine(x86() | siblings("0", "1", "2", "3")) == "Some Xeon Gold, 4 cores"
    assert machine(x86(2) | siblings("0,1"), n=2) == "Some Xeon Gold, 1 core of 2 threads"


def test_cores_of_two_kinds(machine):
    hybrid = siblings("0,1", "2,3", "4", "5") | {"sys/devices/cpu_core/cpus": "0-3", "sys/devices/cpu_atom/cpus": "4-5"}
    assert machine(x86(6) | hybrid, n=6) == "Some Xeon Gold, 4 cores with 6 threads (4 fast, 2 slow)"
    capacities = {f"sys/devices/system/cpu/cpu{i}/cpu_capacity": "1024" if i > 1 else "446" for i in range(4)}
    assert machine(arm("0xd05", "0xd05", "0xd0b", "0xd0b") | capacities) == (
        "Cortex-A55 + Cortex-A76, 4 cores of 2 kinds"
    )


def test_two_boards_have_two_names(machine):
    pi4 = arm(*["0xd08"] * 4, more="Hardware\t: BCM2835\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n")
    pi5 = arm(*["0xd0b"] * 4, more="Model\t\t: Raspberry Pi 5 Model B Rev 1.0\n")
    assert machine(pi4) == "Cortex-A72 (Raspberry Pi 4 Model B Rev 1.4), 4 cores"
    assert machine(pi5) == "Cortex-A76 (Raspberry Pi 5 Model B Rev 1.0), 4 cores"
    # ARM of 32 bits give all the same model name.
    same = "model name\t: ARMv7 Processor rev 3 (v7l)\n"
    names = [
        machine({"proc/cpuinfo": same + ARM.format(i=0, maker="0x41", part=part)}, n=1) for part in ("0xc07", "0xd08")
    ]
    assert names == ["Cortex-A7, 1 core", "Cortex-A72, 1 core"]


def test_the_board_is_told_by_the_device_tree_as_well(machine):
    tree = {"proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0"}
    assert machine(arm("0xd42") | tree, n=1) == "Cortex-A78AE (NVIDIA Jetson Orin Nano Developer Kit), 1 core"


def test_power_modes_are_part_of_the_name_where_they_are_not_the_usual(machine):
    conf = "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=15W >\n"
    jetson = arm("0xd42") | {"etc/nvpmodel.conf": conf, "var/lib/nvpmodel/status": "pmode:0001 fmode:quiet\n"}
    assert machine(jetson, n=1) == "Cortex-A78AE, 1 core, nvpmodel 15W"
    assert machine(jetson | {"var/lib/nvpmodel/status": "pmode:0007\n"}, n=1).endswith(", nvpmodel 7")

    def governed(*names, driver="cpufreq-dt"):
        files = {}
        for i, name in enumerate(names):
            for folder in (f"cpufreq/policy{i}", f"cpu{i}/cpufreq"):
                files[f"sys/devices/system/cpu/{folder}/scaling_governor"] = f"{name}\n"
                files[f"sys/devices/system/cpu/{folder}/scaling_driver"] = f"{driver}\n"
        return machine(x86() | files)

    assert governed("schedutil") == governed("ondemand") == "Some Xeon Gold, 4 cores"
    assert governed("powersave", driver="intel_pstate") == governed("powersave", driver="amd-pstate-epp")
    assert governed("powersave", driver="intel_pstate") == "Some Xeon Gold, 4 cores"
    assert governed("powersave") == "Some Xeon Gold, 4 cores, governor powersave"
    assert governed("performance", "powersave").endswith(", governor performance + powersave")
    profile = {"sys/firmware/acpi/platform_profile": "low-power\n"}
    assert machine(x86() | profile) == "Some Xeon Gold, 4 cores, profile low-power"
    assert machine(x86() | {"sys/firmware/acpi/platform_profile": "balanced\n"}) == "Some Xeon Gold, 4 cores"


def test_a_core_that_is_not_known_has_its_numbers(machine):
    assert machine(arm("0xfff"), n=1) == "ARM part 0xfff, 1 core"
    assert machine(arm("0x663", maker="0x70"), n=1) == "Phytium part 0x663, 1 core"
    assert machine(arm("0x001", maker="0x99"), n=1) == "implementer 0x99 part 0x001, 1 core"
    assert machine(arm("0xd42", "0xd42"), n=2) == "Cortex-A78AE, 2 cores"  # of a Jetson Orin
    assert machine(arm("0x803", "0x802", maker="0x51"), n=2) == "Kryo 385 Silver + Kryo 385 Gold, 2 cores"
    assert machine(arm("strange"), n=1) == "CPU part strange, 1 core"
    assert machine({"proc/cpuinfo": "processor\t: 0\nuarch\t\t: sifive,u74-mc\n"}, n=1) == "sifive,u74-mc, 1 core"


def test_what_a_container_leaves_is_part_of_the_name(machine):
    assert machine(x86(), allowed=3) == "Some Xeon Gold, 4 cores, of which 3 may be used"
    version_2 = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}
    assert machine(x86() | version_2) == "Some Xeon Gold, 4 cores, at most 2.5 at a time"
    assert machine(x86() | version_2, allowed=3).endswith("of which 3 may be used, at most 2.5 at a time")
    for cgroup in ("4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n", "4:cpu:/docker/abc\n"):
        folder = "sys/fs/cgroup/" + cgroup.split(":")[1]
        version_1 = {
            "proc/self/cgroup": cgroup,
            f"{folder}/docker/abc/cpu.cfs_quota_us": "150000\n",
            f"{folder}/docker/abc/cpu.cfs_period_us": "100000\n",
            f"{folder}/cpu.cfs_quota_us": "-1\n",
            f"{folder}/cpu.cfs_period_us": "100000\n",
        }
        assert machine(x86() | version_1).endswith("4 cores, at most 1.5 at a time")


def test_the_tightest_limit_of_all_groups_holds(machine):
    files = x86() | {
        "proc/self/cgroup": "0::/user.slice/job.scope\n",
        "sys/fs/cgroup/user.slice/job.scope/cpu.max": "max 100000\n",
        "sys/fs/cgroup/user.slice/cpu.max": "50000 100000\n",
        "sys/fs/cgroup/cpu.max": "300000 100000\n",
    }
    assert machine(files).endswith(", at most 0.5 at a time")
    # What the host calls the group is not where a container sees it.
    assert machine(files | {"proc/self/cgroup": "0::/kubepods/pod7/abc\n"}).endswith(", at most 3 at a time")


@pytest.mark.parametrize("limit", ["max 100000", "400000 100000", "900000 100000", "", "100000 0", "what ever"])
def test_a_limit_that_is_none_is_not_said(machine, limit):
    files = x86() | {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": limit}
    assert machine(files) == "Some Xeon Gold, 4 cores"


def test_groups_that_do_not_limit_the_cpu_are_not_asked(tmp_path):
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("5:cpuset:/a\n4:memory:/b\n2:cpu,cpuacct:/c/../d\n0::/e\n")
    groups = Path("/nowhere")
    assert control_groups(tmp_path, groups) == [groups / "c/d", groups / "c", groups, groups / "e"]
    assert control_groups(tmp_path / "missing", groups) == []
