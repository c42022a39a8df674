"""A box with sensors, laid out as files: what `governor.sysfs_root`, `procfs_root` and `rehearsal_dir` point at."""

import threading
import time
from pathlib import Path

WATTS = 8
# More for the time that engines compute, where a test connects them.
WORK_WATTS = 6
REST_OF_BOARD_WATTS = 3.5
BUDGET_WATTS = 20
MAX_ENERGY_UJ = 262_143_328_850
MIB = 1 << 20


class Sensors:
    """A gateway on its battery, with a processor package that draws 8 W, two thermal zones, a fan, clocks, throttle counters,
    a rail that is measured, 2 GiB of memory and a control group that may use half of it."""

    def __init__(self, folder: Path):
        self.sysfs, self.procfs, self.rehearsal = (folder / name for name in ("sys", "proc", "rehearsal"))
        # So that the counter wraps around after ten seconds.
        self.first_uj = MAX_ENERGY_UJ - 10 * WATTS * 1_000_000
        self.wraps, self.joules = 0, 0.0
        self._worked, self._seen = None, 0.0
        self.rehearsal.mkdir(parents=True)
        self._write_fixed()
        self._step(0, WATTS)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def settings(self) -> dict[str, str]:
        """Environment for a server that looks here. A rehearsal takes effect at once and is soon over."""
        settings = {"ENABLED": "true", "SYSFS_ROOT": self.sysfs, "PROCFS_ROOT": self.procfs, "REHEARSAL_DIR": self.rehearsal, "POWER_BUDGET_WATTS": BUDGET_WATTS,
                    "ESCALATE_SECONDS": 0, "RECOVER_SECONDS": 2}
        return {f"EDGELLM__GOVERNOR__{key}": str(value) for key, value in settings.items()}

    def follow(self, server):
        """From now on work costs energy as well."""
        self._worked = lambda: server.metric("edgellm_engine_busy_seconds_total")
        self._seen = self._worked()

    def rehearse(self, resource: str, pressure: float | None):
        """Injects a pressure, or ends that."""
        file = self.rehearsal / resource
        if pressure is None:
            file.unlink()
        else:
            self._put(file, pressure)

    def _run(self):
        began = before = time.monotonic()
        while not self._ended.wait(0.1):
            now = time.monotonic()
            joules = WATTS * (now - before) + WORK_WATTS * self._work()
            self.joules += joules
            self._step(now - began, joules / (now - before))
            before = now

    def _work(self) -> float:
        """Seconds that engines have computed since the last time."""
        try:
            seen = self._worked() if self._worked else 0.0
        except OSError:  # it has ended
            return 0.0
        self._seen, before = seen, self._seen
        return max(seen - before, 0.0)

    def _step(self, seconds: float, watts: float):
        self.wraps, energy_uj = divmod(self.first_uj + int(self.joules * 1e6), MAX_ENERGY_UJ)
        self._put(self.sysfs / "class/power_supply/BAT0/power_now", int((watts + REST_OF_BOARD_WATTS) * 1e6))
        self._put(self.sysfs / "class/powercap/intel-rapl:0/energy_uj", energy_uj)
        # A sensor that fails now and then.
        self._put(self.sysfs / "class/thermal/thermal_zone1/temp", "garbage" if seconds % 3 < 1.2 else 41_000)
        self._put(self.sysfs / "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", 3 + int(seconds / 8))
        # Two cores: this process has one for a quarter of the time, the others half of a core.
        ticks = int(seconds * 100)
        self._put(self.procfs / "stat", f"cpu {1000 + ticks // 2} 0 {500 + ticks // 4} {8000 + ticks * 5 // 4} 0 0 0 0 0 0")
        self._put(self.procfs / "self/stat", f"7 (edgellm) S 1 1 1 0 -1 0 0 0 0 0 {100 + ticks // 4} 20 0 0 20 0 1 0")
        for resource, share in (("cpu", 0.05), ("memory", 0.001), ("io", 0.01)):
            kinds = (("some", 120_000 + int(seconds * share * 1e6)), ("full", 40_000 + int(seconds * share * 5e5)))
            self._put(self.procfs / f"pressure/{resource}", "\n".join(f"{kind} avg10=0.00 avg60=0.00 avg300=0.00 total={total}" for kind, total in kinds))

    def _write_fixed(self):
        power, thermal, cores, supply = (self.sysfs / place for place in ("class/powercap", "class/thermal", "devices/system/cpu", "class/power_supply"))
        fixed = {
            power / "intel-rapl:0": {"name": "package-0", "max_energy_range_uj": MAX_ENERGY_UJ, "enabled": 1, "constraint_0_name": "long_term", "constraint_0_power_limit_uw": 45_000_000},
            # Inside the package: never to be added to it.
            power / "intel-rapl:0:0": {"name": "core", "energy_uj": 1, "max_energy_range_uj": MAX_ENERGY_UJ},
            self.sysfs / "class/hwmon/hwmon0": {"name": "ina226", "power1_input": 1_200_000},
            thermal / "thermal_zone0": {"type": "x86_pkg_temp", "temp": 61_000, "trip_point_0_type": "passive", "trip_point_0_temp": 85_000, "trip_point_1_type": "critical", "trip_point_1_temp": 105_000},
            thermal / "thermal_zone1": {"type": "acpitz"},
            thermal / "cooling_device0": {"type": "Fan", "cur_state": 1, "max_state": 4},
            thermal / "cooling_device1": {"type": "Processor", "cur_state": 0, "max_state": 10},
            cores / "cpu0": {"cpufreq/scaling_cur_freq": 2_400_000, "thermal_throttle/package_throttle_count": 1, "topology/physical_package_id": 0},
            cores / "cpu1": {"cpufreq/scaling_cur_freq": 1_800_000, "thermal_throttle/core_throttle_count": 3, "thermal_throttle/package_throttle_count": 1},
            # What it gives is what the board draws, which has no budget here.
            supply / "BAT0": {"type": "Battery", "present": 1, "status": "Discharging", "energy_now": 60_000_000, "energy_full": 80_000_000},
            supply / "AC": {"type": "Mains", "online": 0},
            self.sysfs / "fs/cgroup/shop": {"memory.max": "max", "memory.current": 700 * MIB, "memory.stat": "inactive_file 0"},
            self.sysfs / "fs/cgroup/shop/edgellm": {"memory.max": 1024 * MIB, "memory.current": 512 * MIB, "memory.stat": f"anon 1\ninactive_file {100 * MIB}"},
            self.procfs: {
                "meminfo": "MemTotal: 2097152 kB\nMemFree: 1048576 kB\nMemAvailable: 1468006 kB", "self/cgroup": "0::/shop/edgellm",
                "self/status": "Name: edgellm\nVmRSS: 81920 kB\nRssAnon: 40960 kB\nRssFile: 40960 kB\nRssShmem: 0 kB",
            },
        }
        for folder, files in fixed.items():
            for name, value in files.items():
                self._put(folder / name, value)

    @staticmethod
    def _put(path: Path, value: object):
        """As the kernel does it: a reader never finds half a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}")
        new.write_text(f"{value}\n")
        new.replace(path)
