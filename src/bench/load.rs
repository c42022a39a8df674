//! Who asks what, and when: decided here as plain data, carried out by `runner`.

use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Serialize;
use serde_json::{Value, json};

use super::{flood, store, two_models};

/// The kind of load, with its measures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "profile", rename_all = "lowercase")]
pub enum LoadProfile {
    /// All kiosks of one store, with one long prompt, ask at once; then again with other questions.
    Kiosk {
        /// Kiosks that ask at once.
        clients: usize,
        /// Questions of each, the first of them cold.
        questions: usize,
        /// Products in the store's prompt, some 20 tokens each.
        products: usize,
    },
    /// One kiosk has asked already when all others of its store ask at once.
    Rush {
        /// Kiosks that ask at once.
        clients: usize,
        /// Products in the store's prompt.
        products: usize,
    },
    /// As the kiosks of one store, but every client has a store, and so a long prompt, of its own.
    Unrelated {
        /// Clients that ask at once.
        clients: usize,
        /// Questions of each, the first of them cold.
        questions: usize,
        /// Products in each store's prompt.
        products: usize,
    },
    /// Short prompts, one after the other: how fast answers are made.
    Short {
        /// Clients that ask at once.
        clients: usize,
        /// Questions of each.
        questions: usize,
    },
    /// A long prompt arrives while long answers are running.
    Intruder {
        /// Answers that are running.
        clients: usize,
        /// Products in the prompt of the newcomer.
        products: usize,
    },
    /// Kiosks of one store ask whenever they like.
    Arrivals {
        /// Requests a second on average; the gaps between them are exponential.
        rate: f64,
        /// Requests in all.
        requests: usize,
        /// Products in the store's prompt.
        products: usize,
    },
    /// Questions whose answer stands word for word in the prompt.
    Copy {
        /// Clients that ask at once.
        clients: usize,
        /// Questions of each, the first of them cold.
        questions: usize,
        /// Products in the store's prompt.
        products: usize,
    },
    /// Short prompts with free answers, then as many with answers that must fit a JSON schema.
    Structured {
        /// Clients that ask at once.
        clients: usize,
        /// Questions of each of either kind.
        questions: usize,
    },
    /// A short question each second, alone and then beside a flood of long prompts, which comes with another key.
    Flood {
        /// Requests of the flood at once: who has an answer asks again.
        clients: usize,
        /// Products in each prompt of the flood, all of which are new.
        products: usize,
        /// Short questions, in either phase.
        requests: usize,
        /// The server's `scheduler.target_inter_token_ms`: the first token may come later by two of them.
        target_inter_token_ms: u64,
    },
    /// The same work for two models of one server, one after the other and then together.
    #[serde(rename = "two-models")]
    TwoModels {
        /// Clients of each model.
        clients: usize,
        /// Questions of each client in turn, each with a prompt that is new.
        questions: usize,
        /// Products in each prompt.
        products: usize,
    },
    /// Long answers of one model, alone and then while another one makes vectors of texts all the time.
    #[serde(rename = "embeddings")]
    Embeddings {
        /// Clients that ask the first model at once.
        clients: usize,
        /// Questions of each in turn.
        questions: usize,
        /// Products in each text to embed, some 20 tokens each.
        products: usize,
    },
}

/// A part of the load that has figures of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadPart {
    /// The first to send a prompt.
    Cold,
    /// Prompts that the server has seen the beginning of.
    Warm,
    /// Short prompts.
    Short,
    /// The newcomer's prompt on a quiet server.
    Alone,
    /// The newcomer's prompt while other answers are running.
    Newcomer,
    /// Those other answers, while the newcomer waits for its first token.
    Running,
    /// Kiosks that come whenever they like.
    Arrivals,
    /// Answers that may be whatever the model says.
    Free,
    /// Answers that must fit a schema.
    Held,
    /// A question each second, with nobody beside.
    Calm,
    /// A question each second beside a flood.
    Flooded,
    /// That flood.
    Flood,
    /// The first model, while the other has nothing to do.
    #[serde(rename = "first_alone")]
    FirstAlone,
    /// The second model, while the other has nothing to do.
    #[serde(rename = "second_alone")]
    SecondAlone,
    /// The first model while the other computes as well.
    #[serde(rename = "first_beside")]
    FirstBeside,
    /// The second model while the other computes as well.
    #[serde(rename = "second_beside")]
    SecondBeside,
}

/// Which of the models of a plan is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneModel {
    First,
    Second,
}

/// When a lane begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum LaneStart {
    /// So long after its step.
    After(Duration),
    /// When all background lanes of the step have their first text.
    WhenBackgroundSpeaks,
}

/// One client: questions in turn.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    pub(super) part: LoadPart,
    pub(super) start: LaneStart,
    /// Cut off when all lanes that are not in the background have ended.
    pub(super) background: bool,
    /// Asks with the flood's key, again and again with new prompts until it is cut off.
    pub(super) floods: bool,
    pub(super) model: LaneModel,
    pub(super) questions: Vec<Question>,
}

impl Lane {
    /// The requests of this lane, in turn.
    pub(super) fn requests(&self) -> impl Iterator<Item = Question> {
        let turns = if self.floods { usize::MAX } else { 1 };
        (0..turns).flat_map(|turn| self.questions.iter().map(move |asked| asked.anew(turn)))
    }
}

/// Lanes that run side by side. The next step begins when all have ended.
pub(super) type LoadStep = Vec<Lane>;

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Question {
    system: Option<Arc<str>>,
    user: String,
    max_tokens: u32,
    ignore_eos: bool,
    /// Whether the answer must fit [`schema`].
    held: bool,
    /// Texts whose vectors are wanted, instead of an answer.
    texts: Option<Arc<[String]>>,
}

/// What holds for every answer.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct AnswerLimits {
    /// Tokens at most.
    pub max_tokens: u32,
    /// Whether the model is to go on past its own end of an answer.
    pub ignore_eos: bool,
}

impl Question {
    /// For every turn but the first, the question with a prompt that is another one from its first word on.
    fn anew(&self, turn: usize) -> Self {
        let system = self.system.as_deref().filter(|_| turn > 0);
        let system = system.map(|system| format!("{turn} times: {system}").into());
        Self {
            system: system.or_else(|| self.system.clone()),
            ..self.clone()
        }
    }

    /// The same question with an answer of as many tokens as it may have.
    pub(super) fn until_the_last_token(self) -> Self {
        Self {
            ignore_eos: true,
            ..self
        }
    }

    /// Asks for the vectors of these texts instead.
    pub(super) fn for_vectors(self, texts: Arc<[String]>) -> Self {
        Self {
            texts: Some(texts),
            ..self
        }
    }

    /// Whether it asks for vectors.
    pub(super) fn is_for_vectors(&self) -> bool {
        self.texts.is_some()
    }

    pub(super) fn to_json(&self, model: &str) -> Value {
        if let Some(texts) = &self.texts {
            return json!({"model": model, "input": texts[..]});
        }
        let mut messages = Vec::new();
        if let Some(system) = self.system.as_deref() {
            messages.push(json!({"role": "system", "content": system}));
        }
        messages.push(json!({"role": "user", "content": self.user}));
        let mut body = json!({
            "model": model,
            "stream": true,
            "stream_options": {"include_usage": true},
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "messages": messages,
        });
        if self.ignore_eos {
            body["ignore_eos"] = json!(true);
        }
        if self.held {
            body["response_format"] = json!({
                "type": "json_schema",
                "json_schema": {"name": "articles", "strict": true, "schema": schema()},
            });
        }
        body
    }
}

/// Of a list that is longer than any answer here.
fn schema() -> Value {
    let article = json!({
        "type": "object", "additionalProperties": false,
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "price": {"type": "number", "minimum": 0, "maximum": 1000},
            "aisle": {"type": "integer", "minimum": 1, "maximum": 24},
            "kind": {"enum": ["food", "household", "other"]},
        },
        "required": ["name", "price", "aisle", "kind"],
    });
    json!({
        "type": "object", "additionalProperties": false,
        "properties": {"articles": {"type": "array", "items": article, "minItems": 100}},
        "required": ["articles"],
    })
}

/// Tokens of the newcomer's answer at most: its first one is what it is there for.
const NEWCOMER_TOKENS: u32 = 8;

impl LoadProfile {
    /// All of one round. The stores are called after `round`, so that no server has seen them
    /// in another; `seed` decides when arrivals come.
    pub(super) fn script(self, round: &str, answers: AnswerLimits, seed: u64) -> Vec<LoadStep> {
        let ask = |system: Option<&Arc<str>>, user: String| Question {
            system: system.map(Arc::clone),
            user,
            max_tokens: answers.max_tokens,
            ignore_eos: answers.ignore_eos,
            held: false,
            texts: None,
        };
        let talk = |number| ask(None, store::small_talk(number));
        let store = |name: usize, products: usize| -> Arc<str> {
            store::prompt(&format!("{round}-{name}"), products).into()
        };
        match self {
            Self::Kiosk {
                clients,
                questions,
                products,
            } => {
                let prompt = store(0, products);
                bursts(clients, questions, |_, number| {
                    ask(Some(&prompt), store::question(number, products))
                })
            }
            Self::Rush { clients, products } => {
                let prompt = store(0, products);
                rush(clients, |number| {
                    ask(Some(&prompt), store::question(number, products))
                })
            }
            Self::Unrelated {
                clients,
                questions,
                products,
            } => {
                let prompts: Vec<_> = (0..clients).map(|name| store(name, products)).collect();
                bursts(clients, questions, |client, number| {
                    ask(Some(&prompts[client]), store::question(number, products))
                })
            }
            Self::Copy {
                clients,
                questions,
                products,
            } => {
                let prompt = store(0, products);
                bursts(clients, questions, |_, number| {
                    ask(Some(&prompt), store::quotation(number, products))
                })
            }
            Self::Short { clients, questions } => {
                let lane = |client| {
                    let numbers = (0..questions).map(|turn| turn * clients + client);
                    at_once(LoadPart::Short, numbers.map(talk).collect())
                };
                vec![(0..clients).map(lane).collect()]
            }
            Self::Structured { clients, questions } => structured(clients, questions, talk),
            Self::Flood {
                clients,
                products,
                requests,
                ..
            } => flood::script(clients, requests, talk, |client| {
                let prompt = store(client, products);
                ask(Some(&prompt), store::question(client, products))
            }),
            Self::TwoModels {
                clients,
                questions,
                products,
            } => two_models::script(clients, questions, |name| {
                ask(
                    Some(&store(name, products)),
                    store::question(name, products),
                )
            }),
            Self::Embeddings {
                clients,
                questions,
                products,
            } => {
                let texts = (0..two_models::TEXTS).map(|name| store(name, products).to_string());
                two_models::embeddings(clients, questions, talk, texts.collect())
            }
            Self::Arrivals {
                rate,
                requests,
                products,
            } => {
                let prompt = store(0, products);
                arrivals(poisson(rate, requests, seed), |number| {
                    ask(Some(&prompt), store::question(number, products))
                })
            }
            Self::Intruder { clients, products } => intruder(clients, talk, |name| {
                ask(Some(&store(name, products)), store::question(0, products))
            }),
        }
    }
}

/// A newcomer alone, and again when all the others have begun their long answers.
fn intruder(
    clients: usize,
    talk: impl Fn(usize) -> Question,
    newcomer: impl Fn(usize) -> Question,
) -> Vec<LoadStep> {
    let newcomer = |part, name| {
        let asked = newcomer(name);
        let question = Question {
            max_tokens: asked.max_tokens.min(NEWCOMER_TOKENS),
            ..asked
        };
        at_once(part, vec![question])
    };
    let mut together = vec![Lane {
        start: LaneStart::WhenBackgroundSpeaks,
        ..newcomer(LoadPart::Newcomer, 1)
    }];
    together.extend((0..clients).map(|client| Lane {
        background: true,
        ..at_once(LoadPart::Running, vec![talk(client).until_the_last_token()])
    }));
    vec![vec![newcomer(LoadPart::Alone, 0)], together]
}

/// One client alone, then all others at once.
fn rush(clients: usize, question: impl Fn(usize) -> Question) -> Vec<LoadStep> {
    let lane = |part, number| at_once(part, vec![question(number)]);
    let others = (1..=clients).map(|number| lane(LoadPart::Warm, number));
    vec![vec![lane(LoadPart::Cold, 0)], others.collect()]
}

/// One client alone, then one at each of these times.
fn arrivals(times: Vec<Duration>, question: impl Fn(usize) -> Question) -> Vec<LoadStep> {
    let first = at_once(LoadPart::Cold, vec![question(0)]);
    let lane = |(number, time)| Lane {
        start: LaneStart::After(time),
        ..at_once(LoadPart::Arrivals, vec![question(number)])
    };
    vec![vec![first], (1..).zip(times).map(lane).collect()]
}

/// Each question twice in turn, with a free answer and with one that is held to a schema. Both go on to
/// their last token.
fn structured(
    clients: usize,
    questions: usize,
    question: impl Fn(usize) -> Question,
) -> Vec<LoadStep> {
    let lane = |number: usize, held: bool| {
        let question = Question {
            ignore_eos: true,
            held,
            ..question(number)
        };
        at_once(
            if held { LoadPart::Held } else { LoadPart::Free },
            vec![question],
        )
    };
    let step = |turn: usize, held: bool| {
        let numbers = turn * clients..(turn + 1) * clients;
        numbers.map(|number| lane(number, held)).collect()
    };
    (0..questions)
        .flat_map(|turn| [step(turn, false), step(turn, true)])
        .collect()
}

/// A lane of the foreground that begins with its step.
pub(super) fn at_once(part: LoadPart, questions: Vec<Question>) -> Lane {
    Lane {
        part,
        start: LaneStart::After(Duration::ZERO),
        background: false,
        floods: false,
        model: LaneModel::First,
        questions,
    }
}

/// All clients ask at once, and again when all have their answers. `question` is given the client
/// and the number of the question in the whole load.
fn bursts(
    clients: usize,
    questions: usize,
    question: impl Fn(usize, usize) -> Question,
) -> Vec<LoadStep> {
    let burst = |turn: usize| {
        let part = if turn == 0 {
            LoadPart::Cold
        } else {
            LoadPart::Warm
        };
        (0..clients)
            .map(|client| at_once(part, vec![question(client, turn * clients + client)]))
            .collect()
    };
    (0..questions).map(burst).collect()
}

/// Times of a Poisson process: the gaps are exponential, by inversion.
#[allow(clippy::cast_precision_loss)] // 53 bits are exactly what an f64 holds
fn poisson(rate: f64, count: usize, seed: u64) -> Vec<Duration> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut seconds = 0.0;
    let mut next = || {
        let uniform = (random.next_u64() >> 11) as f64 * (-53_f64).exp2();
        seconds += -(-uniform).ln_1p() / rate;
        Duration::from_secs_f64(seconds)
    };
    (0..count).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWERS: AnswerLimits = AnswerLimits {
        max_tokens: 100,
        ignore_eos: false,
    };

    fn systems(step: &LoadStep) -> Vec<&str> {
        let questions = step.iter().flat_map(|lane| &lane.questions);
        questions.filter_map(|q| q.system.as_deref()).collect()
    }

    #[test]
    fn kiosks_share_a_prompt_and_ask_their_own_questions() {
        let load = LoadProfile::Kiosk {
            clients: 3,
            questions: 2,
            products: 50,
        };
        let steps = load.script("r", ANSWERS, 0);
        let parts: Vec<_> = steps.iter().map(|step| step[0].part).collect();
        assert_eq!(parts, [LoadPart::Cold, LoadPart::Warm]);
        let prompts: Vec<_> = steps.iter().flat_map(systems).collect();
        assert_eq!(prompts.len(), 6);
        assert!(prompts.iter().all(|prompt| *prompt == prompts[0]));
        let lanes = steps.iter().flatten();
        let mut questions: Vec<_> = lanes.map(|lane| &lane.questions[0].user).collect();
        questions.sort();
        questions.dedup();
        assert_eq!(questions.len(), 6);
        let other = load.script("s", ANSWERS, 0);
        assert_ne!(
            systems(&other[0])[0],
            prompts[0],
            "a round has its own store"
        );
    }

    #[test]
    fn unrelated_clients_keep_a_prompt_of_their_own() {
        let load = LoadProfile::Unrelated {
            clients: 3,
            questions: 2,
            products: 5,
        };
        let steps = load.script("r", ANSWERS, 0);
        let (cold, warm) = (systems(&steps[0]), systems(&steps[1]));
        assert_eq!(cold, warm);
        assert!(cold[0] != cold[1] && cold[1] != cold[2] && cold[0] != cold[2]);
    }

    #[test]
    fn an_intruder_comes_alone_first_and_then_when_all_others_speak() {
        let load = LoadProfile::Intruder {
            clients: 4,
            products: 150,
        };
        let steps = load.script("r", ANSWERS, 0);
        assert_eq!(steps[0].len(), 1);
        let newcomer = &steps[1][0];
        assert_eq!(newcomer.start, LaneStart::WhenBackgroundSpeaks);
        assert_ne!(systems(&steps[0]), systems(&steps[1]), "cold both times");
        assert!(newcomer.questions[0].max_tokens < ANSWERS.max_tokens);
        assert_eq!(steps[1][1..].len(), 4);
        for lane in &steps[1][1..] {
            assert!(lane.background && lane.questions[0].ignore_eos);
        }
    }

    #[test]
    fn free_and_held_answers_take_turns_and_only_the_held_ones_have_a_schema() {
        let load = LoadProfile::Structured {
            clients: 2,
            questions: 2,
        };
        let steps = load.script("r", ANSWERS, 0);
        let parts: Vec<_> = steps.iter().map(|step| step[0].part).collect();
        assert_eq!(
            parts,
            [
                LoadPart::Free,
                LoadPart::Held,
                LoadPart::Free,
                LoadPart::Held
            ]
        );
        let body = |step: usize| steps[step][1].questions[0].to_json("m");
        assert_eq!(body(0)["messages"], body(1)["messages"]);
        assert!(body(0).get("response_format").is_none());
        assert_eq!(body(1)["response_format"]["type"], "json_schema");
        assert_eq!(
            (&body(0)["ignore_eos"], &body(1)["ignore_eos"]),
            (&json!(true), &json!(true))
        );
    }

    #[test]
    fn arrivals_have_the_rate_asked_for_and_the_same_times_for_the_same_seed() {
        let times = poisson(5.0, 20_000, 1);
        assert!(times.is_sorted());
        let took = times[times.len() - 1].as_secs_f64();
        assert!((took - 4000.0).abs() < 120.0, "{took}");
        // The gaps of a Poisson process vary as much as they last.
        let gaps: Vec<f64> = times
            .windows(2)
            .map(|pair| pair[1].as_secs_f64() - pair[0].as_secs_f64())
            .collect();
        let variance = gaps.iter().map(|gap| (gap - 0.2).powi(2)).sum::<f64>() / 20_000.0;
        assert!((variance.sqrt() - 0.2).abs() < 0.01, "{variance}");
        assert_eq!(poisson(5.0, 10, 1), times[..10]);
        assert_ne!(poisson(5.0, 10, 2), times[..10]);
    }

    #[test]
    fn a_request_asks_for_its_usage_and_past_the_end_only_if_told_to() {
        let load = LoadProfile::Short {
            clients: 1,
            questions: 1,
        };
        let body = |ignore_eos| {
            let answers = AnswerLimits {
                ignore_eos,
                ..ANSWERS
            };
            load.script("r", answers, 0)[0][0].questions[0].to_json("m")
        };
        let plain = body(false);
        assert_eq!(plain["model"], "m");
        assert_eq!(plain["stream_options"]["include_usage"], true);
        assert!(plain.get("ignore_eos").is_none());
        assert_eq!(body(true)["ignore_eos"], true);
    }
}
