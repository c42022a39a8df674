"""A box with sensors, laid out as files: what `governor.sysfs_root` and `governor.procfs_root` point at."""

import threading
import time
from pathlib import Path

WATTS = 8
BUDGET_WATTS = 20
MAX_ENERGY_UJ = 262_143_328_850


class Sensors:
    """A processor package that draws 8 W, two thermal zones, a fan and clocks; procfs as on a box with 2 GiB."""

    def __init__(self, folder: Path):
        self.sysfs, self.procfs = folder / "sys", folder / "proc"
        # So that the counter wraps around after ten seconds.
        self.energy_uj = MAX_ENERGY_UJ - 80_000_000
        self.beats = 0
        self._write_fixed()
        self._step()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def settings(self) -> dict[str, str]:
        """Environment for a server that looks here."""
        return {"EDGELLM__GOVERNOR__SYSFS_ROOT": str(self.sysfs), "EDGELLM__GOVERNOR__PROCFS_ROOT": str(self.procfs),
                "EDGELLM__GOVERNOR__POWER_BUDGET_WATTS": str(BUDGET_WATTS)}

    def _run(self):
        began, at_first = time.monotonic(), self.energy_uj
        while not self._ended.wait(0.05):
            drawn = WATTS * (time.monotonic() - began)
            self.energy_uj = (at_first + int(drawn * 1e6)) % MAX_ENERGY_UJ
            self.beats += 1
            self._step()

    def _step(self):
        self._put(self.sysfs / "class/powercap/intel-rapl:0/energy_uj", self.energy_uj)
        # A sensor that fails now and then.
        self._put(self.sysfs / "class/thermal/thermal_zone1/temp", "garbage" if self.beats % 60 < 24 else 41_000)

    def _write_fixed(self):
        package, zone, fan = (self.sysfs / "class" / place for place in ("powercap/intel-rapl:0", "thermal/thermal_zone0", "thermal/cooling_device0"))
        self._put(package / "name", "package-0")
        self._put(package / "max_energy_range_uj", MAX_ENERGY_UJ)
        self._put(zone / "type", "x86_pkg_temp")
        self._put(zone / "temp", 61_000)
        self._put(zone / "trip_point_0_type", "passive")
        self._put(zone / "trip_point_0_temp", 85_000)
        self._put(self.sysfs / "class/thermal/thermal_zone1/type", "acpitz")
        self._put(fan / "type", "Fan")
        self._put(fan / "cur_state", 1)
        self._put(fan / "max_state", 4)
        for cpu in ("cpu0", "cpu1"):
            self._put(self.sysfs / f"devices/system/cpu/{cpu}/cpufreq/scaling_cur_freq", 2_400_000)
            # Were it to grow, the governor would refuse requests, and rightly so.
            self._put(self.sysfs / f"devices/system/cpu/{cpu}/thermal_throttle/core_throttle_count", 3)
        self._put(self.procfs / "meminfo", "MemTotal: 2097152 kB\nMemFree: 1048576 kB\nMemAvailable: 1468006 kB\n")
        self._put(self.procfs / "self/cgroup", "0::/\n")
        self._put(self.procfs / "self/status", "Name: edgellm\nVmRSS: 81920 kB\nRssAnon: 40960 kB\nRssFile: 40960 kB\nRssShmem: 0 kB\n")
        self._put(self.procfs / "stat", "cpu 1000 0 500 8000 0 0 0 0 0 0\n")
        for resource in ("cpu", "memory", "io"):
            self._put(self.procfs / f"pressure/{resource}", "some avg10=0.00 avg60=0.00 avg300=0.00 total=120000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=40000\n")

    @staticmethod
    def _put(path: Path, value: object):
        """As the kernel does it: a reader never finds half a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}")
        new.write_text(f"{value}\n")
        new.replace(path)
