//! The monitor over trees of files.

use super::super::sensors::testing::Tree;
use super::*;
use crate::config::{Sources, load};

const RANGE: u64 = 262_143_328_850;
const ZONE: &str = "sys/class/powercap/intel-rapl:0";

fn settings(tree: &Tree, watts: f64) -> GovernorSettings {
    let mut settings = load(&Sources::default()).expect("defaults").governor;
    settings.sysfs_root = tree.path().join("sys");
    settings.procfs_root = tree.path().join("proc");
    settings.power_budget = crate::config::Watts::new(watts);
    settings
}

fn package(tree: &Tree, microjoules: u64) {
    tree.write(&[
        (&format!("{ZONE}/name"), "package-0"),
        (
            &format!("{ZONE}/energy_uj"),
            &(microjoules % RANGE).to_string(),
        ),
        (&format!("{ZONE}/max_energy_range_uj"), &RANGE.to_string()),
    ]);
}

fn at(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[test]
fn eight_watts_across_a_wrap_leave_twelve_of_twenty() {
    let tree = Tree::new();
    let mut monitor = Monitor::new(&settings(&tree, 20.0)).expect("threads");
    let start = Instant::now();
    let mut joules = 0.0;
    for second in 0..6 {
        package(&tree, RANGE - 20_000_000 + second * 8_000_000);
        let snapshot = monitor.look(at(start, second));
        joules += snapshot
            .joules
            .iter()
            .map(|(_, _, joules)| joules)
            .sum::<f64>();
        let Some(power) = snapshot.power else {
            assert_eq!(second, 0, "a counter needs two readings");
            continue;
        };
        assert!((power.drawn - 8.0).abs() < 1e-6 && (power.watts() - 12.0).abs() < 1e-6);
        assert_eq!(snapshot.sources.get("rapl"), Some(&true));
    }
    assert!((joules - 40.0).abs() < 1e-6);
}

#[test]
fn nothing_there_is_nothing_known() {
    let tree = Tree::new();
    let mut monitor = Monitor::new(&settings(&tree, 20.0)).expect("threads");
    let snapshot = monitor.look(Instant::now());
    assert!(snapshot.sensors.is_empty() && snapshot.sources.is_empty());
    assert!(snapshot.power.is_none() && snapshot.memory.is_none());
    for resource in Resource::ALL {
        assert_eq!(snapshot.pressure(resource), None);
    }
}

#[test]
fn a_source_that_fails_is_down_and_its_draw_unknown_at_once() {
    let tree = Tree::new();
    let mut monitor = Monitor::new(&settings(&tree, 20.0)).expect("threads");
    let start = Instant::now();
    for second in 0..3 {
        package(&tree, 1_000_000 + second * 8_000_000);
        monitor.look(at(start, second));
    }
    tree.write(&[(&format!("{ZONE}/energy_uj"), "\u{fffd}garbage")]);
    let snapshot = monitor.look(at(start, 3));
    assert_eq!(snapshot.sources.get("rapl"), Some(&false));
    assert_eq!(snapshot.failures, [("rapl", 1)]);
    assert!(snapshot.power.is_none() && snapshot.draws.is_empty());
    tree.remove("sys/class/powercap");
    assert_eq!(monitor.look(at(start, 4)).sources.get("rapl"), Some(&false));
    for second in 5..8 {
        package(&tree, 7 + second * 8_000_000);
        monitor.look(at(start, second));
    }
    package(&tree, 7 + 8 * 8_000_000);
    let snapshot = monitor.look(at(start, 8));
    assert_eq!(snapshot.sources.get("rapl"), Some(&true));
    assert!((snapshot.power.expect("back").drawn - 8.0).abs() < 1e-6);
}

#[test]
fn a_budget_stays_the_boards_when_the_boards_sensor_is_down() {
    let tree = Tree::new();
    let mut monitor = Monitor::new(&settings(&tree, 20.0)).expect("threads");
    let start = Instant::now();
    let input = "sys/class/hwmon/hwmon0/power1_input";
    tree.write(&[
        ("sys/class/hwmon/hwmon0/name", "power_meter"),
        (input, "15000000"),
    ]);
    for second in 0..3 {
        package(&tree, 1_000_000 + second * 8_000_000);
        monitor.look(at(start, second));
    }
    package(&tree, 1_000_000 + 3 * 8_000_000);
    let power = monitor.look(at(start, 3)).power.expect("known");
    assert!((power.watts() - 5.0).abs() < 1e-6, "of the board");
    tree.write(&[(input, "-1")]);
    package(&tree, 1_000_000 + 4 * 8_000_000);
    let snapshot = monitor.look(at(start, 4));
    assert_eq!(snapshot.power, None);
    assert_eq!(snapshot.draws.len(), 1, "the package is still shown");
}

#[test]
fn a_gap_in_time_is_not_filled_with_energy() {
    let tree = Tree::new();
    let mut monitor = Monitor::new(&settings(&tree, 20.0)).expect("threads");
    let start = Instant::now();
    tree.write(&[
        ("sys/class/hwmon/hwmon0/name", "power_meter"),
        ("sys/class/hwmon/hwmon0/power1_input", "10000000"),
    ]);
    let joules = |snapshot: ResourceSnapshot| snapshot.joules.first().map(|(_, _, joules)| *joules);
    assert_eq!(joules(monitor.look(start)), None);
    assert_eq!(joules(monitor.look(at(start, 1))), Some(10.0));
    assert_eq!(joules(monitor.look(at(start, 3600))), None);
}

#[test]
fn a_processor_that_slows_itself_down_presses_even_where_no_zone_has_a_limit() {
    let tree = Tree::new();
    let mut monitor = Monitor::new(&settings(&tree, 0.0)).expect("threads");
    let count = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count";
    let start = Instant::now();
    let mut pressure = None;
    for second in 0..100 {
        tree.write(&[(count, &(500 + second).to_string())]);
        pressure = monitor.look(at(start, second)).pressure(Resource::Thermal);
    }
    assert!(
        (0.8..0.89).contains(&pressure.expect("known")),
        "{pressure:?}"
    );
}

#[test]
fn the_hottest_zone_is_the_one_nearest_to_its_limit() {
    let tree = Tree::new();
    let mut monitor = Monitor::new(&settings(&tree, 0.0)).expect("threads");
    for (number, temp, trip) in [
        (0, "70000", "95000"),
        (1, "60000", "75000"),
        (2, "90000", ""),
    ] {
        let zone = format!("sys/class/thermal/thermal_zone{number}");
        tree.write(&[
            (&format!("{zone}/type"), "cpu"),
            (&format!("{zone}/temp"), temp),
            (&format!("{zone}/trip_point_0_type"), "passive"),
            (&format!("{zone}/trip_point_0_temp"), trip),
        ]);
    }
    let snapshot = monitor.look(Instant::now());
    assert_eq!(snapshot.hottest().expect("known").zone, "cpu#2");
    let pressure = snapshot.pressure(Resource::Thermal).expect("known");
    assert!((pressure - 0.4).abs() < 1e-9);
}

/// Answers when it is told to.
struct Slow(std::sync::mpsc::Receiver<SensorReport>);

impl Sensor for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn read(&mut self, _roots: &Roots, _now: Instant) -> SensorReport {
        self.0.recv().expect("told")
    }
}

#[test]
fn a_driver_that_hangs_or_dies_takes_no_other_sensor_with_it() {
    let tree = Tree::new();
    let zone = "sys/class/thermal/thermal_zone0";
    tree.write(&[
        (&format!("{zone}/type"), "cpu"),
        (&format!("{zone}/temp"), "50000"),
    ]);
    let (tell, told) = std::sync::mpsc::channel();
    let settings = settings(&tree, 20.0);
    let mut sensors = sensors::all(&settings);
    sensors.insert(0, Box::new(Slow(told)));
    let mut monitor = Monitor::over(sensors, &settings).expect("threads");
    let clock = || SensorReport {
        readings: vec![SensorReading::Frequency { hertz: 1e9 }],
        ..SensorReport::default()
    };
    let start = Instant::now();
    let mut look = |second| {
        let snapshot = monitor.look(at(start, second));
        assert_eq!(snapshot.temperatures.len(), 1, "the other goes on");
        let is_up = snapshot.sensors.get("slow").copied();
        (is_up, snapshot.hertz, snapshot.failures.len())
    };
    assert_eq!(look(0), (Some(false), None, 1), "it hangs");
    let began = Instant::now();
    assert_eq!(look(1), (Some(false), None, 1));
    assert!(
        began.elapsed() < sensor_thread::ANSWER_TIMEOUT,
        "waited for once only"
    );
    // Late, and the one after it: about a time that nobody knows.
    tell.send(clock()).expect("there");
    tell.send(clock()).expect("there");
    tell.send(clock()).expect("there");
    let mut second = 2;
    while look(second) != (Some(true), Some(1e9), 0) {
        second += 1;
        assert!(second < 60, "it is believed again");
        std::thread::yield_now();
    }
    assert!(second >= 4, "two answers were not believed");
    drop(tell);
    assert_eq!(look(second + 1), (Some(false), None, 1), "it died");
}
