"""The device under test: its real name, what else runs on it, its clocks, power and energy.

NVML (``pip install nvidia-ml-py``) is optional; without it, and on a CPU, the readings are None
and stay empty in the CSV. Torch-free: a CUDA device is told by its bus id.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUSY_LOAD = 0.25  # runnable processes per core before we start
# Names of NVML's throttle reasons that mean "slower than the work asked for".
SLOWED = {
    "SwPowerCap": "power cap",
    "HwSlowdown": "hardware slowdown",
    "HwThermalSlowdown": "heat",
    "SwThermalSlowdown": "heat",
    "HwPowerBrakeSlowdown": "power brake",
}


@dataclass(frozen=True)
class Reading:
    """One look at the device. MHz, watt, degrees Celsius, millijoule since the driver started."""

    sm_mhz: float | None = None
    memory_mhz: float | None = None
    watt: float | None = None
    celsius: float | None = None
    slowed: tuple[str, ...] = ()
    energy_mj: float | None = None


class Watch:
    """Reads a CUDA device through NVML; every reading is empty where that is not possible."""

    def __init__(self, bus_id: str | None) -> None:
        self._nvml, self._handle = _open(bus_id)

    @property
    def there(self) -> bool:
        """Whether anything can be read."""
        return self._handle is not None

    def read(self) -> Reading:
        """The state now; what a driver refuses to tell is None."""
        if self._handle is None:
            return Reading()
        n, h = self._nvml, self._handle
        power = _try(n.nvmlDeviceGetPowerUsage, h)
        return Reading(
            sm_mhz=_try(n.nvmlDeviceGetClockInfo, h, n.NVML_CLOCK_SM),
            memory_mhz=_try(n.nvmlDeviceGetClockInfo, h, n.NVML_CLOCK_MEM),
            watt=None if power is None else power / 1000,
            celsius=_try(n.nvmlDeviceGetTemperature, h, n.NVML_TEMPERATURE_GPU),
            slowed=self._slowed(),
            energy_mj=_try(n.nvmlDeviceGetTotalEnergyConsumption, h),
        )

    def others(self) -> int:
        """Compute processes on the device besides this one (which must hold a context)."""
        if self._handle is None:
            return 0
        found = _try(self._nvml.nvmlDeviceGetComputeRunningProcesses, self._handle)
        # Inside a container our own process has another number, so it is counted, not looked up.
        return max(0, len(found or ()) - 1)

    def _slowed(self) -> tuple[str, ...]:
        ask = getattr(self._nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", None)
        bits = _try(ask, self._handle) if ask is not None else None
        found = []
        for name, words in SLOWED.items():
            flag = getattr(self._nvml, f"nvmlClocksThrottleReason{name}", 0)
            if bits is not None and int(bits) & int(flag):
                found.append(words)
        return tuple(dict.fromkeys(found))


def _open(bus_id: str | None) -> tuple[Any, Any]:
    if bus_id is None:
        return None, None
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByPciBusId(bus_id.encode())
    except Exception:  # not installed, no driver, no permission: all mean "not recorded"
        return None, None


def _try(ask: Any, *args: Any) -> Any:
    try:
        return ask(*args)
    except Exception:  # NVML raises its own error for everything a device does not support
        return None


# --- the host -------------------------------------------------------------------------------
def cpu_name() -> str:
    """The processor's model and the cores this process may use."""
    name = ""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.lower().startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{name or platform.processor() or platform.machine()}, {cores()} cores"


def cores() -> int:
    """Cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def busy_host() -> str:
    """A line when other work occupies the host's cores, else nothing."""
    try:
        load = os.getloadavg()[0]
    except OSError:
        return ""
    if load < BUSY_LOAD * cores():
        return ""
    return f"busy machine: load {load:.1f} on {cores()} cores before the start"


def busy_now(seconds: float = 0.5) -> str:
    """A line when others use the host's cores while we wait; for moments when our own work has
    filled the load average."""
    before = _core_seconds()
    time.sleep(seconds)
    after = _core_seconds()
    if before is None or after is None or after[1] <= before[1]:
        return ""
    used = (after[0] - before[0]) / (after[1] - before[1]) * cores()
    if used < BUSY_LOAD * cores():
        return ""
    return f"busy machine: {used:.1f} of {cores()} cores in use before the start"


def _core_seconds() -> tuple[float, float] | None:
    """Clock ticks that our cores have worked, and all their ticks; None where nobody counts."""
    affinity = getattr(os, "sched_getaffinity", None)
    try:
        lines = Path("/proc/stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    wanted = {f"cpu{n}" for n in affinity(0)} if affinity is not None else set()
    ticks = [list(map(int, line.split()[1:9])) for line in lines if line.split()[0] in wanted]
    if not ticks:
        return None
    idle = sum(one[3] + one[4] for one in ticks)  # idle, and waiting for a disk
    every = sum(map(sum, ticks))
    return float(every - idle), float(every)


def free_host_bytes() -> int | None:
    """Memory that can still be had: the system's, or the container's when that is less."""
    found = [n for n in (_available(), _container()) if n is not None]
    return min(found) if found else None


def _available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _container() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text(encoding="utf-8").strip()
        used = int((folder / "memory.current").read_text(encoding="utf-8"))
        return None if limit == "max" else max(0, int(limit) - used)
    except (OSError, ValueError):
        return None
