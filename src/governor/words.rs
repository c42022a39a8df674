//! What the log says when the level changes: for the person who runs the shop.

use crate::headroom::{Outlook, Resource};

use super::Measures;
use super::policy::Action;

/// The hardest measure and why, or that all is well.
pub(super) fn sentence(
    hardest: Option<(Action, Resource)>,
    measures: &Measures,
    outlook: &Outlook,
) -> String {
    let Some((action, resource)) = hardest else {
        return "power, heat and memory are fine: full service".to_owned();
    };
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let done = match action {
        Action::Cache => "fewer prompts are kept ready".to_owned(),
        Action::Flex => "requests that can wait (flex) are parked".to_owned(),
        Action::Rows => "fewer requests are answered at once".to_owned(),
        Action::Pace => format!(
            "answers slow down, to {} of the speed",
            percent(measures.duty)
        ),
        Action::Refuse => "new requests are refused until it is over".to_owned(),
    };
    format!("{}: {done}", reason(resource, outlook))
}

fn reason(resource: Resource, outlook: &Outlook) -> String {
    match resource {
        Resource::Power => match &outlook.power {
            Some(power) => format!(
                "power is short, {:.1} W drawn of {:.1} W",
                power.drawn, power.budget
            ),
            None => "power is short".to_owned(),
        },
        Resource::Thermal => match outlook.hottest() {
            Some(zone) => format!(
                "it gets too hot, {} is at {:.0} °C and may have {:.0} °C",
                zone.zone,
                zone.celsius,
                zone.limit.unwrap_or(zone.celsius)
            ),
            None => "it gets too hot".to_owned(),
        },
        Resource::Memory => match outlook.memory {
            Some(memory) => format!(
                "memory is short, {:.0} MiB left of {:.0} MiB",
                memory.available / 1_048_576.0,
                memory.limit / 1_048_576.0
            ),
            None => "memory is short".to_owned(),
        },
        Resource::Cpu => match outlook.other_programs {
            Some(ratio) => format!(
                "other programs take {:.0} % of the processor",
                100.0 * ratio
            ),
            None => "other programs take the processor".to_owned(),
        },
    }
}
