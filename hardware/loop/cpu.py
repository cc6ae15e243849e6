"""What this machine's CPU is, in the words that keep numbers apart: model, cores, and what a container leaves of it.

It needs the standard library alone and Python 3.9, so that boards run this very file.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

__all__ = ["control_groups", "cpu_description", "power_modes"]

# Names of cores by implementer and part, where Linux tells numbers only (arch/arm64/include/asm/cputype.h, util-linux).
_ARM = {
    0x41: {
        0xC05: "Cortex-A5", 0xC07: "Cortex-A7", 0xC08: "Cortex-A8", 0xC09: "Cortex-A9", 0xC0D: "Cortex-A17",
        0xC0E: "Cortex-A17", 0xC0F: "Cortex-A15", 0xD01: "Cortex-A32", 0xD02: "Cortex-A34", 0xD03: "Cortex-A53",
        0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD06: "Cortex-A65", 0xD07: "Cortex-A57", 0xD08: "Cortex-A72",
        0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76", 0xD0C: "Neoverse-N1", 0xD0D: "Cortex-A77",
        0xD0E: "Cortex-A76AE", 0xD40: "Neoverse-V1", 0xD41: "Cortex-A78", 0xD42: "Cortex-A78AE", 0xD43: "Cortex-A65AE",
        0xD44: "Cortex-X1", 0xD46: "Cortex-A510", 0xD47: "Cortex-A710", 0xD48: "Cortex-X2", 0xD49: "Neoverse-N2",
        0xD4A: "Neoverse-E1", 0xD4B: "Cortex-A78C", 0xD4C: "Cortex-X1C", 0xD4D: "Cortex-A715", 0xD4E: "Cortex-X3",
        0xD4F: "Neoverse-V2", 0xD80: "Cortex-A520", 0xD81: "Cortex-A720", 0xD82: "Cortex-X4", 0xD83: "Neoverse-V3AE",
        0xD84: "Neoverse-V3", 0xD85: "Cortex-X925", 0xD87: "Cortex-A725", 0xD88: "Cortex-A520AE",
        0xD89: "Cortex-A720AE", 0xD8E: "Neoverse-N3",
    },
    0x42: {0x516: "Vulcan"},
    0x43: {0x0A1: "ThunderX", 0x0A2: "ThunderX 81XX", 0x0A3: "ThunderX 83XX", 0x0AF: "ThunderX2"},
    0x46: {0x001: "A64FX"},
    0x48: {0xD01: "Kunpeng-920", 0xD40: "Cortex-A76 (HiSilicon)"},
    0x4E: {0x000: "Denver", 0x003: "Denver 2", 0x004: "Carmel"},
    0x50: {0x000: "X-Gene"},
    0x51: {
        0x001: "Oryon", 0x201: "Kryo", 0x205: "Kryo", 0x211: "Kryo", 0x800: "Kryo 2XX Gold", 0x801: "Kryo 2XX Silver",
        0x802: "Kryo 385 Gold", 0x803: "Kryo 385 Silver", 0x804: "Kryo 485 Gold", 0x805: "Kryo 485 Silver",
        0xC00: "Falkor", 0xC01: "Saphira",
    },
    0x53: {0x001: "Exynos-M1", 0x002: "Exynos-M3", 0x003: "Exynos-M4", 0x004: "Exynos-M5"},
    0x61: {
        0x022: "Apple M1 Icestorm", 0x023: "Apple M1 Firestorm", 0x024: "Apple M1 Pro Icestorm",
        0x025: "Apple M1 Pro Firestorm", 0x028: "Apple M1 Max Icestorm", 0x029: "Apple M1 Max Firestorm",
        0x032: "Apple M2 Blizzard", 0x033: "Apple M2 Avalanche", 0x034: "Apple M2 Pro Blizzard",
        0x035: "Apple M2 Pro Avalanche", 0x038: "Apple M2 Max Blizzard", 0x039: "Apple M2 Max Avalanche",
    },
    0xC0: {0xAC3: "Ampere-1", 0xAC4: "Ampere-1a"},
}  # fmt: skip
# Whose core it is, where the part has no name above.
_MAKERS = {
    0x41: "ARM", 0x42: "Broadcom", 0x43: "Cavium", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x49: "Infineon",
    0x4D: "Motorola", 0x4E: "NVIDIA", 0x50: "APM", 0x51: "Qualcomm", 0x53: "Samsung", 0x56: "Marvell", 0x61: "Apple",
    0x66: "Faraday", 0x69: "Intel", 0x6D: "Microsoft", 0x70: "Phytium", 0xC0: "Ampere",
}  # fmt: skip
# Governors under which a core that is busy soon has its highest clock: nothing to tell.
_USUAL_GOVERNORS = {"schedutil", "ondemand", "interactive"}
# Drivers whose "powersave" is no lowest clock: the processor chooses by itself.
_CHOOSES_ITSELF = ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")


def cpu_description(root: str = "/") -> str:
    """The CPU as numbers depend on it: ``"Cortex-A76 + Cortex-A55, 8 cores"``, ``"Xeon Gold, 64 cores of 2 threads"``.

    What a container leaves of it is said as well, since it decides how long a network takes: ``"Xeon Gold, 64 cores, of
    which 4 may be used, at most 2.5 at a time"``.

    Args:
        root: of the file system.
    """
    where = Path(root)
    processors = _processors(where / "proc/cpuinfo")
    text = f"{_model(processors, where)}, {_cores(where, len(processors))}"
    if (allowed := _allowed()) is not None and allowed < (os.cpu_count() or 1):
        text += f", of which {allowed} may be used"
    if (quota := _quota(where)) is not None:
        text += f", at most {quota:.3g} at a time"
    return ", ".join([text, *power_modes(root)])


def power_modes(root: str = "/") -> list[str]:
    """What somebody has set that makes the same processor slower or faster and stays so: the mode
    of a Jetson ("nvpmodel 15W"), a governor that is not the usual, the profile of a laptop. Empty where all is usual.

    Args:
        root: of the file system.
    """
    where = Path(root)
    modes = []
    if mode := _jetson_mode(where):
        modes.append(f"nvpmodel {mode}")
    system = where / "sys/devices/system/cpu"
    governors = set()
    for path in (*system.glob("cpufreq/policy[0-9]*"), *system.glob("cpu[0-9]*/cpufreq")):
        name, driver = _text(path / "scaling_governor"), _text(path / "scaling_driver")
        if name and name not in _USUAL_GOVERNORS and not (name == "powersave" and driver.startswith(_CHOOSES_ITSELF)):
            governors.add(name)
    if governors:
        modes.append(f"governor {' + '.join(sorted(governors))}")
    profile = _text(where / "sys/firmware/acpi/platform_profile")
    if profile and profile != "balanced":
        modes.append(f"profile {profile}")
    return modes


def _jetson_mode(root: Path) -> str:
    """The name of the power mode of an NVIDIA Jetson, from the files that its `nvpmodel` keeps; "" on others."""
    number = re.search(r"pmode:0*(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if number is None:
        return ""
    listed = re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=([^\s>]+)", _text(root / "etc/nvpmodel.conf"))
    return dict(listed).get(number[1], number[1])


def _processors(cpuinfo: Path) -> list[dict[str, str]]:
    """What /proc/cpuinfo says of each processor; one empty entry for a text that is about all of them."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        return []
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        pairs = (line.partition(":") for line in paragraph.splitlines() if ":" in line)
        found.append({name.strip(): " ".join(value.split()) for name, _, value in pairs})
    return found


def _model(processors: list[dict[str, str]], root: Path) -> str:
    names = dict.fromkeys(name for name in map(_name, processors) if name)
    if names:
        board = next((p["Model"] for p in processors if p.get("Model")), "")  # of single-board computers
        board = board or _text(root / "proc/device-tree/model").strip("\0 ")
        return " + ".join(names) + (f" ({board})" if board and board not in names else "")
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if answer:
            return answer
    return platform.processor() or platform.machine()


def _name(processor: dict[str, str]) -> str:
    if processor.get("CPU part"):  # first, since all ARM of 32 bits have "ARMv7 Processor rev 3" as their model name
        try:
            maker, part = int(processor["CPU implementer"], 0), int(processor["CPU part"], 0)
        except (KeyError, ValueError):
            return f"CPU part {processor['CPU part']}"
        if known := _ARM.get(maker, {}).get(part):
            return known
        return f"{_MAKERS.get(maker, f'implementer 0x{maker:02x}')} part 0x{part:03x}"
    fields = ("model name", "cpu model", "Model Name", "uarch", "cpu")  # x86, MIPS, LoongArch, RISC-V, POWER
    return next((processor[field] for field in fields if processor.get(field)), "")


def _cores(root: Path, n_listed: int) -> str:
    """How many there are, of which kinds, and whether two of them are one."""
    n = os.cpu_count() or max(1, n_listed)
    text = f"{n} core{'s' if n > 1 else ''}"
    system = root / "sys/devices/system/cpu"
    siblings = [_text(path) for path in system.glob("cpu[0-9]*/topology/thread_siblings_list")]
    whole = len(set(filter(None, siblings)))
    if 0 < whole < n and len(siblings) == n:
        threads = f"of {n // whole} threads" if n % whole == 0 else f"with {n} threads"
        text = f"{whole} core{'s' if whole > 1 else ''} {threads}"
    # Intel's two kinds are listed by type; elsewhere kernels tell how much a core can do.
    kinds = [_listed(root / f"sys/devices/cpu_{kind}/cpus") for kind in ("core", "atom")]
    if all(kinds):
        return f"{text} ({kinds[0]} fast, {kinds[1]} slow)"  # threads, where cores have two
    capacities = sorted({_text(path) for path in system.glob("cpu[0-9]*/cpu_capacity")} - {""}, key=float)
    return f"{text} of {len(capacities)} kinds" if len(capacities) > 1 else text


def _listed(path: Path) -> int:
    """How many numbers a list such as ``0-3,8`` has; 0 where there is none."""
    n = 0
    for part in filter(None, _text(path).split(",")):
        first, _, last = part.partition("-")
        try:
            n += int(last or first) - int(first) + 1
        except ValueError:
            return 0
    return n


def _allowed() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _quota(root: Path) -> float | None:
    """How many cores the container may use on average; None without a limit."""
    limits = []
    for where in control_groups(root / "proc", root / "sys/fs/cgroup"):
        limit, _, period = _text(where / "cpu.max").partition(" ")  # version 2: "250000 1000000" or "max 100000"
        limits += [(limit, period), (_text(where / "cpu.cfs_quota_us"), _text(where / "cpu.cfs_period_us"))]
    found = [int(limit) / int(period) for limit, period in limits if limit.isdigit() and period.strip("0").isdigit()]
    return min((value for value in found if value < (os.cpu_count() or 1)), default=None)


def control_groups(processes: Path, groups: Path) -> list[Path]:
    """Folders of the control groups that limit the CPU time of this process: its own and those that it is in.

    In a container the path that the kernel tells is often the host's, and the group itself is mounted at the top.

    Args:
        processes: /proc.
        groups: /sys/fs/cgroup.
    """
    found = []
    for line in _text(processes / "self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = next((groups / name for name in (controllers, "cpu") if name and (groups / name).is_dir()), groups)
        parts = [part for part in path.split("/") if part and part != ".."]
        found += [top.joinpath(*parts[:i]) for i in range(len(parts), -1, -1)]
    return list(dict.fromkeys(found))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
