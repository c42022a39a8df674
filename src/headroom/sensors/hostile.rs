//! Every file of every sensor with everything in it that drivers have been seen to say, and worse.

use std::time::{Duration, Instant};

use super::super::reading::{SensorReading, SensorReport};
use super::all;
use super::testing::Tree;
use crate::config::{Sources, load};

const FILES: &[(&str, &str)] = &[
    ("sys/class/powercap/intel-rapl:0/name", "package-0"),
    ("sys/class/powercap/intel-rapl:0/energy_uj", "1000000"),
    (
        "sys/class/powercap/intel-rapl:0/max_energy_range_uj",
        "262143328850",
    ),
    ("sys/class/powercap/intel-rapl:0/enabled", "1"),
    (
        "sys/class/powercap/intel-rapl:0/constraint_0_name",
        "long_term",
    ),
    (
        "sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw",
        "15000000",
    ),
    ("sys/class/hwmon/hwmon0/name", "power_meter"),
    ("sys/class/hwmon/hwmon0/power1_average", "12000000"),
    ("sys/class/hwmon/hwmon0/power1_cap", "30000000"),
    ("sys/class/hwmon/hwmon1/name", "ina3221"),
    ("sys/class/hwmon/hwmon1/in1_label", "VDD_IN"),
    ("sys/class/hwmon/hwmon1/in1_input", "5000"),
    ("sys/class/hwmon/hwmon1/curr1_input", "1500"),
    ("sys/class/hwmon/hwmon2/name", "scmi"),
    ("sys/class/hwmon/hwmon2/energy1_input", "1000000"),
    ("sys/class/hwmon/hwmon3/name", "rpi_volt"),
    ("sys/class/hwmon/hwmon3/in0_lcrit_alarm", "0"),
    ("sys/bus/iio/devices/iio:device0/name", "ina3221x"),
    ("sys/bus/iio/devices/iio:device0/rail_name_0", "VDD_IN"),
    ("sys/bus/iio/devices/iio:device0/in_power0_input", "7000"),
    ("sys/class/power_supply/BAT0/type", "Battery"),
    ("sys/class/power_supply/BAT0/status", "Discharging"),
    ("sys/class/power_supply/BAT0/voltage_now", "12000000"),
    ("sys/class/power_supply/BAT0/current_now", "1000000"),
    ("sys/class/power_supply/BAT0/charge_now", "4000000"),
    ("sys/class/power_supply/BAT0/charge_full", "5000000"),
    ("sys/class/power_supply/AC/type", "Mains"),
    ("sys/class/power_supply/AC/online", "1"),
    ("sys/class/power_supply/AC/input_power_limit", "45000000"),
    (
        "sys/firmware/devicetree/base/chosen/power/max_current",
        "\0\0\u{13}\u{8}",
    ),
    ("sys/class/thermal/thermal_zone0/type", "cpu"),
    ("sys/class/thermal/thermal_zone0/temp", "51000"),
    (
        "sys/class/thermal/thermal_zone0/trip_point_0_type",
        "passive",
    ),
    ("sys/class/thermal/thermal_zone0/trip_point_0_temp", "85000"),
    ("sys/class/thermal/cooling_device0/type", "Fan"),
    ("sys/class/thermal/cooling_device0/cur_state", "1"),
    ("sys/class/thermal/cooling_device0/max_state", "4"),
    (
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq",
        "2400000",
    ),
    (
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count",
        "3",
    ),
    (
        "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count",
        "3",
    ),
    (
        "sys/devices/platform/soc/soc:firmware/get_throttled",
        "50000",
    ),
    (
        "proc/meminfo",
        "MemTotal: 2097152 kB\nMemAvailable: 1468006 kB",
    ),
    ("proc/stat", "cpu 1000 0 500 8000 0 0 0 0 0 0"),
    (
        "proc/self/stat",
        "7 (edgellm) S 1 1 1 0 -1 0 0 0 0 0 100 20 0 0",
    ),
    ("proc/self/cgroup", "4:memory:/shop\n0::/shop"),
    (
        "proc/self/status",
        "RssAnon:\t 40960 kB\nRssFile:\t 40960 kB",
    ),
    (
        "proc/pressure/memory",
        "some avg10=0.00 total=120000\nfull avg10=0.00 total=40000",
    ),
    ("cgroup/memory/shop/memory.limit_in_bytes", "1073741824"),
    ("cgroup/memory/shop/memory.usage_in_bytes", "536870912"),
    ("cgroup/shop/memory.max", "1073741824"),
    ("cgroup/shop/memory.current", "536870912"),
    ("cgroup/shop/memory.stat", "inactive_file 1000"),
];

const HOSTILE: &[&str] = &[
    "",
    "\n",
    "0",
    "-0",
    "-1",
    "NaN",
    "-nan",
    "inf",
    "-inf",
    "1e308",
    "9223372036854771712",
    "18446744073709551615",
    "-9223372036854775808",
    "4294967295",
    "99999999999999999999999999",
    "max",
    "cpu 18446744073709551615 18446744073709551615 1 1 1 1 1 1",
    "7 ()) S 1 1 1 0 -1 0 0 0 0 0 18446744073709551615 18446744073709551615",
    "MemTotal: 18446744073709551615 kB\nMemAvailable: 18446744073709551615 kB",
    "some total=18446744073709551615\nfull total=-1",
    "0::/../../../../etc\n4:memory:/../..\n:::",
    "\u{fffd}\u{1f525}\0\u{7}",
];

/// Why a reading cannot be true.
fn is_plausible(reading: &SensorReading) -> bool {
    let share = |ratio: f64| (0.0..=1.0).contains(&ratio);
    let watts = |watts: f64| (0.0..=2000.0).contains(&watts);
    match reading {
        SensorReading::Draw(draw) => {
            watts(draw.watts)
                && draw
                    .joules
                    .is_none_or(|joules| (0.0..=2e4).contains(&joules))
        }
        SensorReading::Budget(budget) => watts(budget.watts),
        SensorReading::Temperature { celsius, limit, .. } => {
            (-40.0..=150.0).contains(celsius)
                && limit.is_none_or(|limit| (40.0..=150.0).contains(&limit))
        }
        SensorReading::Cooling { ratio, .. }
        | SensorReading::SlowedDown { ratio }
        | SensorReading::OtherPrograms { ratio } => share(*ratio),
        SensorReading::Throttled { events, .. } => *events <= 1_000_000,
        SensorReading::Frequency { hertz } => (1e3..=2e13).contains(hertz),
        SensorReading::Memory(memory) => {
            memory.limit > 0.0
                && memory.limit < 1e23
                && share(memory.ratio())
                && memory.usage >= 0.0
        }
        SensorReading::OwnMemory { .. } => true,
        SensorReading::Stalled { time, .. } => *time <= Duration::from_secs(1_000_000_000),
    }
}

fn lay_out(tree: &Tree) {
    tree.write(FILES);
}

#[test]
fn nothing_that_cannot_be_is_ever_said_whatever_a_file_holds() {
    let tree = Tree::new();
    lay_out(&tree);
    let mut settings = load(&Sources::default()).expect("defaults").governor;
    settings.battery_runtime = Some(std::time::Duration::from_secs(3600));
    let mut sensors = all(&settings);
    let known = sensors
        .iter_mut()
        .map(|sensor| tree.read(sensor.as_mut(), 0.0).readings.len());
    assert!(known.sum::<usize>() > 20, "there is much to be said");
    for (file, sane) in FILES {
        let mut sensors = all(&settings);
        let mut second = 0.0;
        let mut look = |told: &str| {
            second += 1.0;
            let reports: Vec<SensorReport> = sensors
                .iter_mut()
                .map(|sensor| tree.read(sensor.as_mut(), second))
                .collect();
            for reading in reports.iter().flat_map(|report| &report.readings) {
                assert!(is_plausible(reading), "{file} is {told:?}: {reading:?}");
            }
        };
        for hostile in HOSTILE {
            tree.write(&[(file, hostile)]);
            look(hostile);
            tree.write(&[(file, sane)]);
            look(sane);
        }
        tree.remove(file);
        look("gone");
        tree.write(&[(file, sane)]);
        look(sane);
    }
}

#[test]
fn pipes_and_devices_instead_of_files_are_not_opened() {
    let tree = Tree::new();
    lay_out(&tree);
    let settings = load(&Sources::default()).expect("defaults").governor;
    let mut sensors = all(&settings);
    for (number, (file, _)) in FILES.iter().enumerate() {
        tree.remove(file);
        let path = tree.path().join(file);
        if number % 2 == 0 {
            let made = std::process::Command::new("mkfifo").arg(&path).status();
            assert!(made.expect("mkfifo").success());
        } else {
            std::os::unix::fs::symlink("/dev/zero", &path).expect("linked");
        }
    }
    let began = Instant::now();
    for sensor in &mut sensors {
        let report = tree.read(sensor.as_mut(), 0.0);
        assert!(report.readings.is_empty(), "{:?}", report.readings);
    }
    assert!(began.elapsed().as_secs() < 10);
}
