//! What the log says when the level changes: for the person who runs the shop.

use crate::headroom::{Resource, ResourceSnapshot};

use super::Measures;
use super::ladder::LadderInput;
use super::policy::Action;

/// The hardest measure and why, or that all is well.
pub(super) fn sentence(
    hardest: Option<(Action, Resource)>,
    measures: &Measures,
    input: &LadderInput,
    snapshot: &ResourceSnapshot,
) -> String {
    let Some((action, resource)) = hardest else {
        return "power, heat and memory are fine: full service".to_owned();
    };
    let done = match action {
        Action::Cache => "fewer prompts are kept ready".to_owned(),
        Action::Flex => "requests that can wait (flex) are parked".to_owned(),
        Action::Rows => "fewer requests are answered at once".to_owned(),
        Action::Pace => format!(
            "answers slow down, to {:.0} % of the speed",
            100.0 * measures.duty
        ),
        Action::Sibling => "smaller models answer for those that have siblings".to_owned(),
        Action::Refuse => "new requests are refused until it is over".to_owned(),
    };
    let is_given = input.of(resource).is_some_and(|pressure| pressure.is_given);
    let reason = match resource {
        _ if snapshot.live.contains(&resource) => by_firmware(resource).to_owned(),
        _ if is_given => format!("a rehearsal says that {} is short", resource.as_str()),
        Resource::Power => power(snapshot),
        Resource::Thermal => thermal(snapshot),
        Resource::Memory => memory(snapshot),
        Resource::Cpu => processor(snapshot),
    };
    format!("{reason}: {done}")
}

fn by_firmware(resource: Resource) -> &'static str {
    match resource {
        Resource::Power => "the firmware finds the supply's voltage too low",
        Resource::Thermal => "the firmware slows the processor down for its heat",
        Resource::Memory => "memory is short",
        Resource::Cpu => "the processor is busy",
    }
}

fn power(snapshot: &ResourceSnapshot) -> String {
    match &snapshot.power {
        Some(power) => format!(
            "power is short, {:.1} W drawn of {:.1} W",
            power.drawn, power.budget
        ),
        None => "power was short".to_owned(),
    }
}

fn thermal(snapshot: &ResourceSnapshot) -> String {
    if let Some(share) = snapshot.slowed_down.filter(|share| *share > 0.5) {
        return format!(
            "it gets too hot, the processor slows itself down for {:.0} % of the time",
            100.0 * share
        );
    }
    let hottest = snapshot.hottest();
    match hottest.and_then(|zone| Some((zone, zone.limit?))) {
        Some((zone, limit)) => format!(
            "it gets too hot, {} is at {:.0} °C and may have {limit:.0} °C",
            zone.zone, zone.celsius
        ),
        None => "it got too hot".to_owned(),
    }
}

fn memory(snapshot: &ResourceSnapshot) -> String {
    const MIB: f64 = 1_048_576.0;
    match snapshot.memory {
        Some(memory) => format!(
            "memory is short, {:.0} MiB left of {:.0} MiB",
            memory.available / MIB,
            memory.limit / MIB
        ),
        None => "memory was short".to_owned(),
    }
}

fn processor(snapshot: &ResourceSnapshot) -> String {
    match snapshot.other_programs {
        Some(share) => format!(
            "other programs take {:.0} % of the processor",
            100.0 * share
        ),
        None => "other programs took the processor".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ladder::Pressure;
    use super::*;
    use crate::headroom::PowerHeadroom;

    #[test]
    fn a_sentence_says_what_is_short_and_what_is_done_about_it() {
        let mut snapshot = ResourceSnapshot {
            power: Some(PowerHeadroom {
                drawn_by: "rapl".to_owned(),
                budget_by: "configured",
                drawn: 21.34,
                budget: 20.0,
            }),
            ..ResourceSnapshot::default()
        };
        let measures = Measures {
            duty: 0.64,
            ..Measures::NONE
        };
        let mut input = LadderInput {
            pressures: vec![Pressure {
                resource: Resource::Power,
                value: 0.9,
                is_given: false,
            }],
            pacer: None,
        };
        let paced = Some((Action::Pace, Resource::Power));
        assert_eq!(
            sentence(paced, &measures, &input, &snapshot),
            "power is short, 21.3 W drawn of 20.0 W: answers slow down, to 64 % of the speed"
        );
        input.pressures[0].is_given = true;
        let refusing = Some((Action::Refuse, Resource::Power));
        assert_eq!(
            sentence(refusing, &measures, &input, &snapshot),
            "a rehearsal says that power is short: new requests are refused until it is over"
        );
        snapshot.live.push(Resource::Power);
        let text = sentence(refusing, &measures, &input, &snapshot);
        assert!(text.starts_with("the firmware finds the supply's voltage too low: "));
        let well = sentence(None, &Measures::NONE, &LadderInput::default(), &snapshot);
        assert!(well.ends_with("full service"));
    }
}
