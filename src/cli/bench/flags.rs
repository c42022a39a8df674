//! The flags that say how much load, and which profile each belongs to.

use clap::{Args, ValueEnum};

use crate::bench::LoadProfile;

/// The kinds of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Profile {
    /// One store: all clients share a long prompt and ask at once, cold and then warm
    Kiosk,
    /// One kiosk has asked already when all others of its store ask at once
    Rush,
    /// Every client has a long prompt of its own; cold and then warm
    Unrelated,
    /// Short prompts: how fast answers are made
    Short,
    /// A cold prompt of --products size arrives while --clients long answers are running
    Intruder,
    /// Kiosks of one store ask whenever they like, --rate a second on average
    Arrivals,
    /// Asks to quote passages of the prompt
    Copy,
    /// Short prompts with free answers, and in turn with answers held to a JSON schema
    Structured,
    /// A short question each second, alone and then beside --clients long prompts at once with --flood-key
    Flood,
    /// The same work for two models (--model twice), one after the other and then together: what that loses
    TwoModels,
    /// Long answers of one model, alone and then beside a second --model that makes vectors all the time
    Embeddings,
}

/// How much of it. What is absent has a default that depends on the profile.
#[derive(Debug, Args)]
pub(super) struct LoadMeasures {
    /// Clients that ask at the same time [default: 8; short 16, intruder 4, copy and embeddings 1, flood 64; of each model two-models 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    clients: Option<u16>,
    /// Questions of each client in turn, the first of them cold [default: 4; short 1, copy and two-models 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    questions: Option<u16>,
    /// Products in the store prompt, some 20 tokens each [default: 30; intruder 150, flood 60, two-models 15, texts of embeddings 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=2000))]
    products: Option<u16>,
    /// Requests a second, for --profile arrivals [default: 1]
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: Option<f64>,
    /// Requests in all for --profile arrivals [default: 50], short questions in either phase for flood [default: 30]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10000))]
    requests: Option<u16>,
    /// Milliseconds between two tokens that the server is set to, for --profile flood [default: 150]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    target_inter_token_ms: Option<u16>,
    /// Tokens of each answer at most [default: 32; short and structured 128, intruder 512, copy 160, two-models and embeddings 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_tokens: Option<u32>,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=10_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected a number of requests a second, from 0.001 to 10000".to_owned()),
    }
}

impl LoadMeasures {
    /// The load, and how many tokens its answers have at most.
    ///
    /// # Errors
    /// Names a flag that was given and means nothing to `profile`.
    pub(super) fn load(mut self, profile: Profile) -> Result<(LoadProfile, u32), String> {
        // Every profile takes the flags that it understands; what is left has no meaning to it.
        let take = |flag: &mut Option<u16>, default| flag.take().unwrap_or(default).into();
        let (load, max_tokens) = match profile {
            Profile::Kiosk => {
                let load = LoadProfile::Kiosk {
                    clients: take(&mut self.clients, 8),
                    questions: take(&mut self.questions, 4),
                    products: take(&mut self.products, 30),
                };
                (load, 32)
            }
            Profile::Rush => {
                let load = LoadProfile::Rush {
                    clients: take(&mut self.clients, 8),
                    products: take(&mut self.products, 30),
                };
                (load, 32)
            }
            Profile::Unrelated => {
                let load = LoadProfile::Unrelated {
                    clients: take(&mut self.clients, 8),
                    questions: take(&mut self.questions, 4),
                    products: take(&mut self.products, 30),
                };
                (load, 32)
            }
            Profile::Short => {
                let load = LoadProfile::Short {
                    clients: take(&mut self.clients, 16),
                    questions: take(&mut self.questions, 1),
                };
                (load, 128)
            }
            Profile::Intruder => {
                let load = LoadProfile::Intruder {
                    clients: take(&mut self.clients, 4),
                    products: take(&mut self.products, 150),
                };
                (load, 512)
            }
            Profile::Arrivals => {
                let load = LoadProfile::Arrivals {
                    rate: self.rate.take().unwrap_or(1.0),
                    requests: take(&mut self.requests, 50),
                    products: take(&mut self.products, 30),
                };
                (load, 32)
            }
            Profile::Copy => {
                let load = LoadProfile::Copy {
                    clients: take(&mut self.clients, 1),
                    questions: take(&mut self.questions, 2),
                    products: take(&mut self.products, 30),
                };
                (load, 160)
            }
            Profile::Structured => {
                let load = LoadProfile::Structured {
                    clients: take(&mut self.clients, 8),
                    questions: take(&mut self.questions, 4),
                };
                (load, 128)
            }
            Profile::TwoModels => {
                let load = LoadProfile::TwoModels {
                    clients: take(&mut self.clients, 2),
                    questions: take(&mut self.questions, 2),
                    products: take(&mut self.products, 15),
                };
                (load, 64)
            }
            Profile::Embeddings => {
                let load = LoadProfile::Embeddings {
                    clients: take(&mut self.clients, 1),
                    questions: take(&mut self.questions, 4),
                    products: take(&mut self.products, 8),
                };
                (load, 64)
            }
            Profile::Flood => {
                let load = LoadProfile::Flood {
                    clients: take(&mut self.clients, 64),
                    products: take(&mut self.products, 60),
                    requests: take(&mut self.requests, 30),
                    target_inter_token_ms: self.target_inter_token_ms.take().unwrap_or(150).into(),
                };
                (load, 32)
            }
        };
        let max_tokens = self.max_tokens.take().unwrap_or(max_tokens);
        match self.left() {
            Some(flag) => Err(misplaced(flag, profile)),
            None => Ok((load, max_tokens)),
        }
    }

    fn left(&self) -> Option<&'static str> {
        [
            (self.clients.is_some(), "--clients"),
            (self.questions.is_some(), "--questions"),
            (self.products.is_some(), "--products"),
            (self.rate.is_some(), "--rate"),
            (self.requests.is_some(), "--requests"),
            (
                self.target_inter_token_ms.is_some(),
                "--target-inter-token-ms",
            ),
        ]
        .into_iter()
        .find_map(|(given, flag)| given.then_some(flag))
    }
}

pub(super) fn misplaced(flag: &str, profile: Profile) -> String {
    let profile = profile.to_possible_value();
    let profile = profile.as_ref().map_or("", |value| value.get_name());
    format!(
        "{flag} means nothing to --profile {profile}; leave it out, or see edgellm bench --help for the profiles that have it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: LoadMeasures = LoadMeasures {
        clients: None,
        questions: None,
        products: None,
        rate: None,
        requests: None,
        target_inter_token_ms: None,
        max_tokens: None,
    };

    #[test]
    fn every_profile_has_its_defaults_and_takes_its_flags() {
        for profile in Profile::value_variants() {
            assert!(NONE.load(*profile).is_ok(), "{profile:?}");
        }
        let given = LoadMeasures {
            clients: Some(3),
            max_tokens: Some(7),
            ..NONE
        };
        let expected = LoadProfile::Intruder {
            clients: 3,
            products: 150,
        };
        assert_eq!(given.load(Profile::Intruder), Ok((expected, 7)));
    }

    #[test]
    fn a_flag_that_means_nothing_to_the_profile_is_named() {
        let given = LoadMeasures {
            rate: Some(2.0),
            ..NONE
        };
        let mistake = given.load(Profile::Kiosk).expect_err("no rate there");
        assert!(mistake.starts_with("--rate means nothing to --profile kiosk"));
    }

    #[test]
    fn a_rate_is_a_number_above_zero() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "NaN", "inf", "fast"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
