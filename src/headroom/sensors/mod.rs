//! The sensors. Each is a small reader of some files of the kernel.

mod board_model;
mod cpu;
#[cfg(test)]
mod hostile;
mod hwmon;
mod jetson;
pub(super) mod memory;
mod rapl;
mod stall;
mod supply;
mod thermal;
mod throttle;

#[cfg(test)]
pub(crate) mod testing;

pub(crate) use supply::BATTERY;

use crate::config::GovernorSettings;

use super::reading::Sensor;

/// All of them; where several see the same scope equally well, the earlier is believed.
pub(crate) fn all(settings: &GovernorSettings) -> Vec<Box<dyn Sensor>> {
    let mut sensors: Vec<Box<dyn Sensor>> = vec![
        Box::new(jetson::Rails),
        Box::new(hwmon::Hwmon::new(settings.board_power_sensor.clone())),
        Box::new(supply::Batteries::new(
            settings.battery_floor_percent,
            settings.battery_runtime,
        )),
        Box::new(supply::Supply),
        Box::new(rapl::Rapl::default()),
        Box::new(thermal::Zones::new(settings.temperature_limit_celsius)),
        Box::new(thermal::Cooling),
        Box::new(throttle::CoreCounters::default()),
        Box::new(throttle::Firmware::default()),
        Box::new(cpu::Frequency),
        Box::new(cpu::OtherPrograms::default()),
        Box::new(memory::SystemMemory),
        Box::new(memory::CgroupMemory),
        Box::new(memory::OwnMemory),
        Box::new(stall::PressureStall),
    ];
    if let (Some(idle), Some(full)) = (settings.board_idle, settings.board_full) {
        sensors.push(Box::new(board_model::BoardModel::new(
            idle.get(),
            full.get(),
        )));
    }
    sensors
}
