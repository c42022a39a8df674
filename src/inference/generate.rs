//! Starts the answers to a checked request: admission, prompt, and submission to the model's queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{Instrument, Span};

use crate::admission::{AdmissionSlot, DrainGuard, SendBudget, Tenant};
use crate::engine::{AdapterId, Token, Vocabulary};
use crate::grammar::{Caller, Constraint};
use crate::pool::{GenerationModel, Visit};
use crate::prompt::{Conversation, OutputParser};
use crate::scheduler::{GenerationJob, QueueProgress, Stops, channel};

use super::Inference;
use super::account::RequestAccount;
use super::answers::{Answers, RunningAnswer};
use super::arrival::Arrival;
use super::constraint::{ConstraintPlan, constraint, plan};
use super::error::{InferenceError, InferenceFailure, RequestError, RequestField};
use super::layout::{
    TokenizedPrompt, answer_room, check_length, check_prediction, prompt, truncate,
};
use super::models::{ChosenModel, adapter_of, generator};
use super::params::GenerationParams;

/// An input that a client wants answers to.
#[derive(Debug)]
pub(crate) enum GenerationInput {
    /// Messages, laid out by the model's chat template.
    Conversation(Conversation),
    /// Text as it is.
    Text(String),
    /// Tokens as they are.
    Tokens(Vec<Token>),
}

/// A request for one or more answers to each of its inputs.
#[derive(Debug)]
pub(crate) struct GenerationRequest {
    /// Not empty.
    pub(crate) inputs: Vec<GenerationInput>,
    pub(crate) params: GenerationParams,
    /// Whether the oldest turns of a conversation may be left out until the rest fits.
    pub(crate) may_truncate: bool,
}

/// Answers that are being generated, in order: all choices of the first input, then of the next.
pub(crate) struct StartedGeneration {
    pub(crate) answers: Answers,
    pub(crate) loaded: Arc<GenerationModel>,
    /// In the order of the inputs.
    pub(crate) prompts: Vec<TokenizedPrompt>,
    /// How long all answers are estimated to take, from the arrival of the request; absent where it has no
    /// deadline, or too little is known.
    pub(crate) estimate: Option<Duration>,
}

impl StartedGeneration {
    /// Returns a parser for an answer to the input at index `input`.
    pub(crate) fn parser(&self, input: usize) -> OutputParser {
        let prompt = self.prompts.get(input);
        prompt.map_or_else(
            || OutputParser::new(None, None),
            |prompt| prompt.parser.clone(),
        )
    }
}

impl Inference {
    /// Starts to generate the answers to a request. `account` records how it ends.
    ///
    /// # Errors
    /// Whatever keeps the request from the model's queue.
    pub(crate) async fn generate(
        &self,
        model: &ChosenModel,
        request: GenerationRequest,
        arrival: Arrival,
        mut account: RequestAccount,
    ) -> Result<StartedGeneration, InferenceError> {
        let prepared = self.prepare(model, request, arrival, &mut account);
        match prepared.await {
            Ok(prepared) => {
                let estimate = prepared.estimate;
                let (jobs, running): (Vec<_>, Vec<_>) = prepared.jobs.into_iter().unzip();
                for job in jobs {
                    if prepared.loaded.submit(job).is_err() {
                        let error = InferenceFailure::ModelUnavailable(model.name()).into();
                        account.failed(&error);
                        return Err(error);
                    }
                }
                let budget = self.send_budget.clone();
                let (choices, presence) = (prepared.choices, prepared.presence);
                Ok(StartedGeneration {
                    answers: Answers::new(running, choices, presence, account, budget),
                    loaded: prepared.loaded,
                    prompts: prepared.prompts,
                    estimate,
                })
            }
            Err(error) => {
                account.failed(&error);
                Err(error)
            }
        }
    }

    /// Does everything but submit the jobs.
    async fn prepare(
        &self,
        model: &ChosenModel,
        request: GenerationRequest,
        mut arrival: Arrival,
        account: &mut RequestAccount,
    ) -> Result<PreparedRequest, InferenceError> {
        let tier = request.params.class.unwrap_or_default();
        arrival.default_deadline(&self.deadlines, tier);
        let entry = &model.entry;
        let choices = request.params.choices.count();
        let count = request.inputs.len() * choices as usize;
        check_count(count, entry.capacity())?;
        let terms = JobTerms::of(&arrival);
        let visit = Visit {
            tenant: terms.tenant,
            slots: count,
            drain_guard: arrival.drain_guard.take(),
            deadline: terms.deadline,
        };
        let entered = self.enter(entry, terms.arrived, visit).await?;
        let (places, presence) = (entered.slots, entered.drain_guard);
        let loaded = generator(entry, entered.loaded)?;
        let adapter = adapter_of(model, &loaded)?;
        let laying_out = self.lay_out(request, Arc::clone(&loaded), places, arrival);
        let laid_out = Arrival::in_time(terms.arrived, terms.deadline, laying_out).await??;
        laid_out
            .params
            .sampling
            .check(loaded.tokenizer.info().vocabulary)?;
        reserve(account, &laid_out)?;
        let (mut jobs, prompts) = jobs(laid_out, &loaded, &self.send_budget, terms, adapter);
        let mut announced: Vec<_> = jobs.iter_mut().map(|(job, _)| job).collect();
        let estimate = loaded.load.announce(&mut announced, Instant::now())?;
        Ok(PreparedRequest {
            jobs,
            estimate: estimate.filter(|_| terms.deadline.is_some()),
            choices: choices as usize,
            presence,
            loaded,
            prompts,
        })
    }

    /// Renders templates and tokenizes on a blocking thread, because both may take a while. Grammars are
    /// compiled on the compile thread, because several requests may wait for the same one.
    async fn lay_out(
        &self,
        request: GenerationRequest,
        loaded: Arc<GenerationModel>,
        places: Vec<AdmissionSlot>,
        arrival: Arrival,
    ) -> Result<TokenizedRequest, InferenceError> {
        let longest_piece = loaded.tokenizer.info().longest_piece.max(1);
        for input in &request.inputs {
            check_length(input, longest_piece, request.may_truncate, loaded.context())?;
        }
        let predicted = request.params.prediction.as_ref().map_or(0, String::len);
        check_prediction(predicted / longest_piece, loaded.context())?;
        let shared = Arc::clone(&loaded);
        let (caller, _here) = Caller::new(arrival.client);
        let log_prompts = self.log_prompts;
        // This continues if the client leaves, and holds the places: a client cannot get more work done by
        // leaving and coming back.
        let laying_out = async move {
            let blocking = in_span(move || {
                let _memory = arrival.memory;
                lay_out(request, &loaded, places, log_prompts)
            });
            let laid_out = tokio::task::spawn_blocking(blocking).await;
            let (mut laid_out, plan) = laid_out.map_err(|_| InferenceFailure::Internal)??;
            if let Some(plan) = plan {
                let format = &laid_out.params.format;
                laid_out.constraint =
                    Some(constraint(plan, format, &shared.grammars, &caller).await?);
            }
            Ok(laid_out)
        };
        let laid_out = tokio::spawn(laying_out.in_current_span());
        laid_out.await.map_err(|_| InferenceFailure::Internal)?
    }
}

/// A request that is ready to be submitted.
struct PreparedRequest {
    jobs: Vec<(GenerationJob, RunningAnswer)>,
    estimate: Option<Duration>,
    choices: usize,
    presence: DrainGuard,
    loaded: Arc<GenerationModel>,
    prompts: Vec<TokenizedPrompt>,
}

/// What the scheduler learns of how a request came.
#[derive(Debug, Clone, Copy)]
struct JobTerms {
    arrived: Instant,
    tenant: Tenant,
    deadline: Option<Instant>,
}

impl JobTerms {
    fn of(arrival: &Arrival) -> Self {
        Self {
            arrived: arrival.at,
            tenant: arrival.principal.tenant,
            deadline: arrival.deadline,
        }
    }
}

/// A request whose inputs are tokenized.
struct TokenizedRequest {
    params: GenerationParams,
    prompts: Vec<TokenizedPrompt>,
    /// How many tokens the answers to each prompt may have.
    rooms: Vec<u32>,
    prediction: Option<Vec<Token>>,
    constraint: Option<Constraint>,
    places: Vec<AdmissionSlot>,
}

fn check_count(answers: usize, capacity: usize) -> Result<(), RequestError> {
    if answers <= capacity {
        return Ok(());
    }
    let before = format!(
        "these are {answers} answers at once; this server takes at most {capacity}: lower "
    );
    let after = " or send fewer prompts";
    Err(RequestError::invalid_in(
        RequestField::Choices,
        before,
        after,
    ))
}

/// Reserves what a request is expected to take of its key's quota.
fn reserve(
    account: &mut RequestAccount,
    laid_out: &TokenizedRequest,
) -> Result<(), InferenceError> {
    let params = &laid_out.params;
    let prompts = laid_out.prompts.iter().map(|prompt| prompt.tokens.len());
    let choices = params.choices.count() as usize;
    let limit = params.max_tokens.is_some();
    let rooms = laid_out.rooms.iter().map(|room| limit.then_some(*room));
    let answers = rooms.flat_map(|room| std::iter::repeat_n(room, choices));
    Ok(account.reserve(prompts.sum(), answers)?)
}

/// Makes the jobs of a request, one for each choice of each prompt, and returns the prompts with them.
fn jobs(
    laid_out: TokenizedRequest,
    loaded: &GenerationModel,
    budget: &SendBudget,
    terms: JobTerms,
    adapter: Option<AdapterId>,
) -> (Vec<(GenerationJob, RunningAnswer)>, Vec<TokenizedPrompt>) {
    let params = &laid_out.params;
    let defaults = &loaded.tokenizer.info().sampling;
    let seed = random_seed();
    let mut places = laid_out.places.into_iter();
    let mut jobs = Vec::new();
    for (prompt, max_tokens) in laid_out.prompts.iter().zip(laid_out.rooms) {
        for choice in 0..params.choices.count() {
            let (sender, events) = channel(max_tokens, budget);
            let progress = Arc::new(QueueProgress::default());
            let sampling = params.sampling.resolve(defaults, seed, choice);
            let job = GenerationJob {
                progress: Arc::clone(&progress),
                prompt: Arc::clone(&prompt.tokens),
                adapter,
                max_tokens,
                repeats: params.sampling.repeats(sampling.temperature),
                sampling,
                constraint: laid_out.constraint.clone(),
                logprobs: params.logprobs,
                prompt_logprobs: params.prompt_logprobs,
                stops: Stops::new(params.stops.clone(), &prompt.parser),
                stop_tokens: params.stop_tokens.clone(),
                tags: Arc::clone(&prompt.tags),
                prediction: laid_out.prediction.clone(),
                class: params.class.unwrap_or_default(),
                tenant: terms.tenant,
                deadline: terms.deadline,
                ignore_end: params.ignore_end,
                arrived: terms.arrived,
                forecast: None,
                place: places.next(),
                span: Span::current(),
                events: sender,
            };
            jobs.push((
                job,
                RunningAnswer::new(events, progress, prompt.tokens.len()),
            ));
        }
    }
    (jobs, laid_out.prompts)
}

fn in_span<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let span = Span::current();
    move || span.in_scope(work)
}

/// Tokenizes the inputs of a request and plans its constraint, which is compiled later.
fn lay_out(
    request: GenerationRequest,
    loaded: &GenerationModel,
    places: Vec<AdmissionSlot>,
    log_prompts: bool,
) -> Result<(TokenizedRequest, Option<ConstraintPlan>), InferenceError> {
    let GenerationRequest {
        mut inputs,
        params,
        may_truncate,
    } = request;
    if log_prompts {
        tracing::info!(?inputs, "prompt");
    }
    if may_truncate {
        for input in &mut inputs {
            truncate(input, params.max_tokens, loaded)?;
        }
    }
    let prompts: Result<Vec<TokenizedPrompt>, InferenceError> = inputs
        .into_iter()
        .map(|input| prompt(input, &params.format, loaded))
        .collect();
    let text = params.prediction.as_ref();
    let prediction = text.map(|text| loaded.tokenizer.encode(text));
    let length = prediction.as_ref().map_or(0, Vec::len);
    check_prediction(length, loaded.context())?;
    let prompts = prompts?;
    // Checked before the grammar, which costs more: tools are in the prompt as well.
    let room = |prompt: &TokenizedPrompt| {
        answer_room(params.max_tokens, prompt.tokens.len(), loaded.context())
    };
    let rooms = prompts.iter().map(room).collect::<Result<_, _>>()?;
    let in_thoughts = prompts.iter().any(|prompt| prompt.opens_thoughts);
    let plan = plan(&params.format, in_thoughts, loaded)?;
    let laid_out = TokenizedRequest {
        prompts,
        rooms,
        prediction,
        constraint: None,
        params,
        places,
    };
    Ok((laid_out, plan))
}

fn random_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}
