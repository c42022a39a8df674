//! Situations that a scheduler brings answers into, and what comes of them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgellm::engine::{Attention, EngineOptions, LlamaEngine, Pieces, Token, Tokenizer, Weights};
use edgellm::scheduler::{
    AnswerEnd, AnswerEvent, EventReceiver, FinishReason, GenerationJob, Scheduler, SchedulerLimits,
};
use edgellm::telemetry::{Metrics, ModelMetrics};

use crate::compare::{Report, Step, best};
use crate::faulty::{Fault, Faulty};
use crate::plain::Plain;
use crate::prompts::{Question, Questions};
use crate::recording::{Noted, Notes, Recording};

/// What happens to answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Situation {
    /// One after the other; each shares what earlier ones left.
    Alone,
    /// Sixteen, each joining while the others are under way.
    Together,
    /// There are too few cells: some are put back and computed again.
    Preempted,
    /// The same, but what is put back is copied out and in again.
    PutAside,
    /// Beginnings give way to others, are copied out, and come back.
    Shelved,
    /// Answers draft, by what they repeat and by predictions.
    Drafted,
    /// Sixteen with drafts and with too few cells, copied out and in.
    Everything,
}

impl Situation {
    /// Those that a model can be in.
    pub fn all(shares_prefixes: bool) -> Vec<Self> {
        use Situation::{Alone, Drafted, Everything, Preempted, PutAside, Shelved, Together};
        if shares_prefixes {
            vec![
                Alone, Together, Preempted, PutAside, Shelved, Drafted, Everything,
            ]
        } else {
            vec![Alone, Together, Preempted]
        }
    }

    fn drafts(self) -> bool {
        matches!(self, Self::Drafted | Self::Everything)
    }

    /// Whether there are too few cells for all answers to grow as long as they want.
    fn is_short(self) -> bool {
        matches!(self, Self::Preempted | Self::PutAside | Self::Everything)
    }

    fn copies(self) -> bool {
        matches!(self, Self::PutAside | Self::Shelved | Self::Everything)
    }
}

/// A situation with questions that bring it about.
pub struct Scenario {
    situation: Situation,
    options: EngineOptions,
    limits: SchedulerLimits,
    tokens: u32,
    /// Each is asked when the one before has been answered; its questions one step after another.
    waves: Vec<Vec<Question>>,
}

impl Scenario {
    pub fn new(situation: Situation, attention: Attention, tokens: u32, asked: &Questions) -> Self {
        let Questions {
            questions,
            strangers,
        } = asked;
        let one_by_one = |asked: Vec<&Question>| {
            let waves = asked.into_iter().map(|one| vec![one.clone()]);
            waves.collect::<Vec<_>>()
        };
        let mut by_length: Vec<&Question> = questions.iter().collect();
        by_length.sort_by_key(|question| question.prompt.len());
        let shortest = || by_length[..7].iter().copied().cloned().collect();
        let cells_for = |question: &Question, more: usize| question.prompt.len() + more;
        // Three of these fit into 512 cells until their answers grow.
        let cut = |stranger: &Question| Question {
            prompt: stranger.prompt[..148].to_vec(),
            ..stranger.clone()
        };
        let longest = by_length[questions.len() - 1];
        let (waves, cells, tokens) = match situation {
            Situation::Alone => (one_by_one(questions.iter().collect()), 2048, tokens),
            Situation::Together => (vec![questions.clone()], 16_384, tokens),
            Situation::Preempted => (
                vec![shortest()],
                cells_for(by_length[6], 100),
                tokens.max(40),
            ),
            Situation::PutAside => (
                vec![strangers.iter().map(cut).collect()],
                512,
                tokens.max(32),
            ),
            Situation::Shelved => {
                let asked = [&questions[0]].into_iter().chain(strangers);
                let again = [&questions[1], &strangers[0]];
                (one_by_one(asked.chain(again).collect()), 512, tokens)
            }
            Situation::Drafted => (vec![questions[5..].to_vec()], 8192, 2 * tokens),
            Situation::Everything => (
                vec![questions.clone()],
                cells_for(longest, 32),
                tokens.max(24),
            ),
        };
        Self {
            situation,
            options: EngineOptions {
                cells: u32::try_from(cells).expect("small"),
                sequences: 32,
                batch_rows: 256,
                threads: if attention == Attention::Plain { 2 } else { 1 },
                threads_per_partition: 1,
                // One partition alone, where what gives way is to give way to others in it.
                memory: if situation == Situation::Shelved {
                    0
                } else {
                    1 << 30
                },
                attention: Some(attention),
                deterministic: false,
            },
            limits: SchedulerLimits {
                max_running: 16,
                target_inter_token: Duration::from_millis(60),
                speculation: situation.drafts(),
                parked_bytes: if situation.copies() { 256 << 20 } else { 0 },
                deterministic: false,
            },
            tokens,
            waves,
        }
    }

    /// With so many questions at most that are asked alone, and together.
    pub fn sampled(mut self, alone: usize, together: usize) -> Self {
        if self.situation == Situation::Alone {
            self.waves.truncate(alone);
        }
        for wave in &mut self.waves {
            wave.truncate(together);
        }
        self
    }

    /// Asks the scheduler, and then the plain driver how it would have gone on from each token.
    pub fn compare(
        &self,
        weights: &Weights,
        tokenizer: &Arc<Tokenizer>,
        fault: Option<Fault>,
        plain: &mut Plain,
    ) -> Report {
        let metrics = Metrics::new().expect("metrics").for_model("parity");
        let notes: Rc<RefCell<Notes>> = Rc::default();
        let engine = LlamaEngine::new(weights, self.options).expect("contexts");
        let engine = Recording::new(Faulty::new(engine, fault), Rc::clone(&notes));
        let pieces: Arc<dyn Pieces> = Arc::clone(tokenizer) as _;
        let scheduler = Scheduler::new(engine, pieces, self.limits, metrics.clone());
        let answers = self.ask(scheduler, &notes);
        let notes = notes.borrow();
        let mut report = Report {
            deeds: deeds(&notes, &metrics),
            ..Report::default()
        };
        let mut by_beginning: HashMap<&[Token], Vec<&Noted>> = HashMap::new();
        for one in &notes.noted {
            by_beginning.entry(&one.beginning).or_default().push(one);
        }
        for answer in &answers {
            answer.compare(tokenizer, &by_beginning, plain, &mut report);
        }
        report
            .wrong
            .extend(self.missed(&notes, &metrics, tokenizer));
        report
    }

    /// Asks all questions, a wave after the other.
    fn ask<E: edgellm::engine::Engine>(
        &self,
        mut scheduler: Scheduler<E>,
        notes: &RefCell<Notes>,
    ) -> Vec<Answer> {
        let start = Instant::now();
        let clock = || start + notes.borrow().elapsed;
        let mut answers = Vec::new();
        for wave in &self.waves {
            let mut listeners = Vec::new();
            for question in wave {
                let (job, events) = GenerationJob::greedy(question.prompt.clone(), self.tokens);
                scheduler.submit(GenerationJob {
                    arrived: clock(),
                    // What the client is told of: which tokens its answer is made of.
                    logprobs: Some(0),
                    ignore_end: self.situation.is_short(),
                    prediction: self.situation.drafts().then(|| question.prediction.clone()),
                    ..job
                });
                listeners.push((question, events));
                scheduler.step(&clock);
            }
            while !scheduler.is_idle() {
                scheduler.step(&clock);
            }
            answers.extend(
                listeners
                    .into_iter()
                    .map(|(question, events)| Answer::read(&question.prompt, events)),
            );
        }
        answers
    }

    /// What this situation is about and did not happen: then it shows nothing.
    fn missed(&self, notes: &Notes, metrics: &ModelMetrics, tokenizer: &Tokenizer) -> Vec<String> {
        let shares = tokenizer.info().shares_prefixes;
        let (preempted, drafted) = (metrics.preemptions.get(), metrics.drafted_tokens.get());
        let accepted = metrics.accepted_tokens.get();
        let mut missed = Vec::new();
        let mut want = |is_wanted: bool, happened: bool, what: &str| {
            if is_wanted && !happened {
                missed.push(format!("{what}: {:?} shows nothing", self.situation));
            }
        };
        let is_shared = matches!(self.situation, Situation::Alone | Situation::Together) && shares;
        want(is_shared, notes.shared > 0, "nothing was shared");
        want(
            self.situation.is_short(),
            preempted > 0,
            "nothing was preempted",
        );
        let is_copied = matches!(self.situation, Situation::PutAside | Situation::Shelved);
        want(is_copied, notes.copied_in > 0, "nothing was copied in");
        let some_drafts = accepted > 0 && accepted < drafted;
        want(
            self.situation.drafts(),
            some_drafts,
            "no drafts were taken, or all",
        );
        missed
    }
}

fn deeds(notes: &Notes, metrics: &ModelMetrics) -> String {
    format!(
        "{} steps, {} cells shared, {} copied in, {} preemptions, {} of {} drafts taken",
        metrics.steps.get(),
        notes.shared,
        notes.copied_in,
        metrics.preemptions.get(),
        metrics.accepted_tokens.get(),
        metrics.drafted_tokens.get()
    )
}

/// What a client received.
struct Answer {
    prompt: Vec<Token>,
    tokens: Vec<Token>,
    text: String,
    finished: Option<AnswerEnd>,
}

impl Answer {
    fn read(prompt: &[Token], mut events: EventReceiver) -> Self {
        let (mut tokens, mut text, mut finished) = (Vec::new(), String::new(), None);
        while let Some(event) = events.try_recv() {
            match event {
                AnswerEvent::Text(more) => {
                    text.push_str(&more.text);
                    tokens.extend(more.logprobs.iter().map(|logprobs| logprobs.token));
                }
                AnswerEvent::Finished(end) => finished = Some(end),
                AnswerEvent::Prompt(_) | AnswerEvent::Failed(_) => {}
            }
        }
        Self {
            prompt: prompt.to_vec(),
            tokens,
            text,
            finished,
        }
    }

    /// Holds every token of it against what both runs held of it. The plain driver follows this answer, not
    /// its own: so what comes behind a place where they part is compared as well.
    fn compare(
        &self,
        tokenizer: &Tokenizer,
        by_beginning: &HashMap<&[Token], Vec<&Noted>>,
        plain: &mut Plain,
        report: &mut Report,
    ) {
        report.answers += 1;
        report.apart.push(Vec::new());
        let Some(finished) = &self.finished else {
            report
                .wrong
                .push(format!("no answer to {}", self.asked(tokenizer)));
            return;
        };
        let pieces: Vec<u8> = self
            .tokens
            .iter()
            .flat_map(|token| tokenizer.piece(*token))
            .copied()
            .collect();
        if whole_characters(&pieces) != self.text {
            report.wrong.push(format!(
                "{:?} is not what the tokens of the answer to {} say",
                self.text,
                self.asked(tokenizer)
            ));
        }
        // The token that ended it is no part of its text.
        let ends = finished.reason == FinishReason::Stop;
        let mut all = self.prompt.clone();
        let (partings, wrong) = (report.partings.len(), report.wrong.len());
        for index in 0..self.tokens.len() + usize::from(ends) {
            let here = || format!("token {index} of the answer to {}", self.asked(tokenizer));
            let Some(noted) = by_beginning.get(&*all) else {
                report
                    .wrong
                    .push(format!("nothing was computed for {}", here()));
                return;
            };
            let picked = self
                .tokens
                .get(index)
                .copied()
                .unwrap_or_else(|| best(&noted[0].logits));
            if index == self.tokens.len() && !tokenizer.is_end(picked) {
                report
                    .wrong
                    .push(format!("{} was the end, but the model went on", here()));
            }
            let plain = plain.logits(&all, self.prompt.len());
            let steps: Vec<Step> = noted
                .iter()
                .map(|noted| Step::new(&noted.logits, &plain, picked))
                .collect();
            let step = steps
                .into_iter()
                .max_by(|a, b| a.apart.total_cmp(&b.apart))
                .expect("one");
            report
                .apart
                .last_mut()
                .expect("this one's")
                .push(step.apart);
            if let Some((best, gap)) = step.parting {
                let text = |token| String::from_utf8_lossy(tokenizer.piece(token)).into_owned();
                let place = format!(
                    "{} is {:?}, and {:?} for the plain driver, by {gap:.4}; logits are {:.4} apart",
                    here(),
                    text(picked),
                    text(best),
                    step.apart
                );
                if step.is_wrong() {
                    report.wrong.push(place);
                } else {
                    report.partings.push(place);
                }
            }
            all.push(picked);
        }
        report.same +=
            usize::from(report.partings.len() == partings && report.wrong.len() == wrong);
    }

    /// The end of the prompt.
    fn asked(&self, tokenizer: &Tokenizer) -> String {
        let last = &self.prompt[self.prompt.len().saturating_sub(12)..];
        let bytes: Vec<u8> = last
            .iter()
            .flat_map(|token| tokenizer.piece(*token))
            .copied()
            .collect();
        format!("{:?}", String::from_utf8_lossy(&bytes))
    }
}

/// Text of bytes that may end in the middle of a character: what there is of that one is never sent.
fn whole_characters(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end_matches('\u{fffd}').to_owned()
}
