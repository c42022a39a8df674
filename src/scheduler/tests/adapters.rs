//! LoRA adapters: nothing crosses from one to another, and they come and go.

use tokio::sync::oneshot::{self, error::TryRecvError};

use super::*;
use crate::engine::AdapterId;
use crate::engine::fake::FakeAdapter;

const FIRST: AdapterId = AdapterId(0);
const SECOND: AdapterId = AdapterId(1);

/// Another number than its id, which the engine does not know.
fn file(id: AdapterId) -> FakeAdapter {
    FakeAdapter(100 + id.0)
}

fn add(scheduler: &mut Scheduler<FakeEngine>, id: AdapterId) {
    scheduler.add_adapter(id, file(id)).expect("added");
    check_integrity(scheduler);
}

fn remove(scheduler: &mut Scheduler<FakeEngine>, id: AdapterId) -> oneshot::Receiver<()> {
    let (done, removed) = oneshot::channel();
    scheduler.accept(SchedulerRequest::Change(AdapterChange::Remove { id, done }));
    check_integrity(scheduler);
    removed
}

fn ask(
    scheduler: &mut Scheduler<FakeEngine>,
    adapter: Option<AdapterId>,
    prompt: &[Token],
    max_tokens: u32,
) -> EventReceiver {
    let (mut job, events) = job(prompt, max_tokens);
    job.adapter = adapter;
    scheduler.submit(job);
    events
}

/// What the engine answers with an adapter.
fn adapted(adapter: Option<AdapterId>, prompt: &[Token], max_tokens: u32) -> String {
    let engine = FakeEngine::new(SHAPE);
    text_of(&engine.continuation_with(adapter.map(file), prompt, max_tokens as usize))
}

fn is_refused(events: &mut EventReceiver) -> bool {
    received(events).1 == Some(AnswerEvent::Failed(WorkError::AdapterRemoved))
}

fn partition_of(scheduler: &Scheduler<FakeEngine>, place: usize) -> usize {
    let id = scheduler.sequences.running[place].id;
    scheduler.sequences.cache.partition_of(id)
}

#[test]
fn the_same_prompt_is_answered_by_each_adapter_in_its_own_way_at_the_same_time() {
    for partitions in [1, 3] {
        let shape = Shape {
            partitions,
            ..SHAPE
        };
        let mut scheduler = scheduler(shape);
        add(&mut scheduler, FIRST);
        add(&mut scheduler, SECOND);
        let all = [None, Some(FIRST), Some(SECOND)];
        for round in 0..3 {
            let asked = all.map(|one| (one, ask(&mut scheduler, one, &kiosk(round)[200..], 12)));
            step(&mut scheduler);
            assert_eq!(scheduler.sequences.running.len(), 3);
            run_dry(&mut scheduler);
            for (adapter, mut events) in asked {
                let (text, end) = received(&mut events);
                assert_eq!(text, adapted(adapter, &kiosk(round)[200..], 12));
                let Some(AnswerEvent::Finished(end)) = end else {
                    panic!("no end: {end:?}");
                };
                // The next questions share what their own adapter has computed.
                assert_eq!(end.cached_tokens, if round == 0 { 0 } else { 100 });
            }
        }
    }
}

#[test]
fn a_removed_adapter_ends_what_has_begun_refuses_what_waits_and_leaves_its_place() {
    let mut scheduler = scheduler(SHAPE);
    scheduler.limits.max_running = 1;
    add(&mut scheduler, FIRST);
    let mut runs = ask(&mut scheduler, Some(FIRST), &prompt(1, 30), 20);
    step(&mut scheduler);
    let place = partition_of(&scheduler, 0);
    let mut waits = ask(&mut scheduler, Some(FIRST), &prompt(2, 30), 20);
    let mut base = ask(&mut scheduler, None, &prompt(3, 30), 5);
    let mut removed = remove(&mut scheduler, FIRST);
    assert!(is_refused(&mut waits));
    let mut late = ask(&mut scheduler, Some(FIRST), &prompt(2, 30), 20);
    assert!(is_refused(&mut late), "it is not offered any more");
    assert_eq!(removed.try_recv(), Err(TryRecvError::Empty));
    run_dry(&mut scheduler);
    assert_eq!(removed.try_recv(), Ok(()));
    assert_eq!(
        received(&mut runs).0,
        adapted(Some(FIRST), &prompt(1, 30), 20)
    );
    assert_eq!(received(&mut base).0, adapted(None, &prompt(3, 30), 5));
    // Nothing of it is found by the next, which takes its place.
    add(&mut scheduler, SECOND);
    let mut next = ask(&mut scheduler, Some(SECOND), &prompt(1, 30), 20);
    step(&mut scheduler);
    assert_eq!(partition_of(&scheduler, 0), place);
    run_dry(&mut scheduler);
    assert_eq!(
        received(&mut next).0,
        adapted(Some(SECOND), &prompt(1, 30), 20)
    );
}

#[test]
fn what_was_preempted_in_the_middle_still_ends_before_its_adapter_goes() {
    let mut scheduler = scheduler(SHAPE);
    scheduler.limits.max_running = 1;
    add(&mut scheduler, FIRST);
    let (mut patient, mut later) = job(&prompt(1, 60), 30);
    patient.class = ServiceTier::Flex;
    patient.adapter = Some(FIRST);
    scheduler.submit(patient);
    for _ in 0..6 {
        step(&mut scheduler);
    }
    let _soon = ask(&mut scheduler, None, &prompt(2, 20), 10);
    step(&mut scheduler);
    assert_eq!(scheduler.sequences.running[0].sequence.adapter(), None);
    let mut removed = remove(&mut scheduler, FIRST);
    assert_eq!(removed.try_recv(), Err(TryRecvError::Empty));
    run_dry(&mut scheduler);
    assert_eq!(removed.try_recv(), Ok(()));
    assert_eq!(
        received(&mut later).0,
        adapted(Some(FIRST), &prompt(1, 60), 30)
    );
}

#[test]
fn an_idle_adapter_goes_at_once_with_what_was_parked_and_offloaded_of_it() {
    let shape = Shape {
        break_even_cells: Some(100),
        ..SHAPE
    };
    let mut scheduler = scheduler(shape);
    add(&mut scheduler, FIRST);
    for seed in 0..4 {
        let _unread = ask(&mut scheduler, Some(FIRST), &prompt(seed, 120), 3);
        run_dry(&mut scheduler);
    }
    assert!(
        scheduler.sequences.cache.offloaded_bytes() > 0,
        "the case is not hit"
    );
    let mut removed = remove(&mut scheduler, FIRST);
    assert_eq!(removed.try_recv(), Ok(()));
    let cache = &scheduler.sequences.cache;
    assert_eq!((cache.used(), cache.offloaded_bytes()), (0, 0));
}

#[test]
fn an_adapter_whose_asker_has_left_is_freed_again() {
    let mut scheduler = scheduler(SHAPE);
    let (done, added) = oneshot::channel();
    drop(added);
    let (id, file) = (FIRST, file(FIRST));
    scheduler.accept(SchedulerRequest::Change(AdapterChange::Add {
        id,
        file,
        done,
    }));
    check_integrity(&scheduler);
    assert_eq!(scheduler.sequences.cache.owned_partitions(), 1);
    let mut events = ask(&mut scheduler, Some(FIRST), &prompt(1, 5), 5);
    assert!(is_refused(&mut events));
}

#[test]
fn where_each_has_a_partition_to_itself_waiting_for_one_holds_nobody_else_up() {
    let mut scheduler = scheduler(Shape {
        partitions: 2,
        exact_block: Some(1),
        ..SHAPE
    });
    scheduler.limits.deterministic = true;
    add(&mut scheduler, FIRST);
    let now = Cell::new(Instant::now());
    // So long that whoever does not fit would stop those behind it.
    let clock = || {
        now.set(now.get() + Duration::from_secs(5));
        now.get()
    };
    let _all: Vec<_> = (0..10)
        .map(|seed| ask(&mut scheduler, Some(FIRST), &prompt(seed, 20), 40))
        .collect();
    for _ in 0..10 {
        scheduler.step(&clock);
    }
    assert_eq!(scheduler.sequences.running.len(), 1);
    let mut base = ask(&mut scheduler, None, &prompt(50, 20), 5);
    for _ in 0..8 {
        scheduler.step(&clock);
    }
    assert_eq!(received(&mut base).0, adapted(None, &prompt(50, 20), 5));
    assert!(!scheduler.is_idle());
    run_dry(&mut scheduler);
}

#[derive(Debug, Clone)]
enum Event {
    Ask {
        adapter: Option<u32>,
        store: usize,
        own: usize,
        max_tokens: u32,
        class: ServiceTier,
        leaves: bool,
    },
    Toggle(u32),
    Steps(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let class = prop::sample::select(vec![
        ServiceTier::Flex,
        ServiceTier::Default,
        ServiceTier::Priority,
    ]);
    let ask = (
        prop::option::of(0_u32..3),
        0_usize..2,
        1_usize..40,
        1_u32..30,
        class,
        0_u32..8,
    );
    prop_oneof![
        4 => ask.prop_map(|(adapter, store, own, max_tokens, class, leaves)| Event::Ask {
            adapter,
            store,
            own,
            max_tokens,
            class,
            leaves: leaves == 0,
        }),
        1 => (0_u32..3).prop_map(Event::Toggle),
        2 => (1_usize..20).prop_map(Event::Steps),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// The fake engine panics where cells of one adapter are given to another, and its answers tell.
    #[test]
    fn whatever_adapters_come_and_go_every_answer_is_of_the_adapter_that_was_asked(
        events in prop::collection::vec(event(), 1..40),
        cells in 180_usize..500,
        parked_bytes in 0_usize..600,
        break_even_cells in prop::option::of(1_usize..3000),
        partitions in 1_u32..4,
        exact_block in prop::option::of(prop::sample::select(vec![1_usize, 8])),
        deterministic in any::<bool>(),
    ) {
        let threads = ThreadLayout { parallel_partitions: 2, threads_per_partition: 1 };
        let shape = Shape { cells, partitions, threads, break_even_cells, exact_block, ..SHAPE };
        let mut scheduler = with_parked_bytes(FakeEngine::new(shape), parked_bytes);
        scheduler.limits.deterministic = deterministic && exact_block.is_some();
        // By number, the id of an adapter that is there; no id comes twice.
        let mut loaded: [Option<AdapterId>; 3] = [None; 3];
        let mut next = 0;
        let mut removals = Vec::new();
        let mut asked = Vec::new();
        for event in events {
            match event {
                Event::Ask { adapter, store, own, max_tokens, class, leaves } => {
                    let mut tokens = prompt(store, 90);
                    tokens.extend(prompt(20 + own, own));
                    // An id that was never given is refused as one that is gone.
                    let id = adapter.map(|number| loaded[number as usize].unwrap_or(AdapterId(999)));
                    let (mut job, events) = job(&tokens, max_tokens);
                    (job.adapter, job.class) = (id, class);
                    scheduler.submit(job);
                    if !leaves {
                        asked.push((id, tokens, max_tokens, events));
                    }
                }
                Event::Toggle(number) => {
                    let place = &mut loaded[number as usize];
                    if let Some(id) = place.take() {
                        removals.push(remove(&mut scheduler, id));
                    } else {
                        let id = AdapterId(next);
                        next += 1;
                        *place = Some(id);
                        add(&mut scheduler, id);
                    }
                }
                Event::Steps(count) => (0..count).for_each(|_| step(&mut scheduler)),
            }
        }
        run_dry(&mut scheduler);
        for mut removal in removals {
            prop_assert_eq!(removal.try_recv(), Ok(()));
        }
        for (id, tokens, max_tokens, mut events) in asked {
            match received(&mut events) {
                (text, Some(AnswerEvent::Finished(_))) => {
                    prop_assert_eq!(text, adapted(id, &tokens, max_tokens));
                }
                (text, end) => {
                    let refused = Some(AnswerEvent::Failed(WorkError::AdapterRemoved));
                    prop_assert_eq!(end, refused);
                    prop_assert_eq!(text, "", "what has begun is ended");
                    prop_assert!(id.is_some_and(|id| !loaded.contains(&Some(id))));
                }
            }
        }
        for id in loaded.into_iter().flatten() {
            prop_assert_eq!(remove(&mut scheduler, id).try_recv(), Ok(()));
        }
        prop_assert_eq!(scheduler.sequences.cache.owned_partitions(), partitions as usize);
    }

    #[test]
    fn a_flood_for_one_adapter_does_not_keep_another_or_the_model_waiting(
        flooded in prop::option::of(0_u32..2),
        flood_length in 5_usize..60,
        flood_tokens in 1_u32..30,
        partitions in 1_u32..3,
        break_even_cells in prop::option::of(50_usize..3000),
        exact_block in prop::option::of(prop::sample::select(vec![1_usize, 8])),
        deterministic in any::<bool>(),
    ) {
        let shape = Shape { partitions, break_even_cells, exact_block, ..SHAPE };
        let mut scheduler = scheduler(shape);
        scheduler.limits.deterministic = deterministic && exact_block.is_some();
        add(&mut scheduler, FIRST);
        add(&mut scheduler, SECOND);
        let flooded = flooded.map(AdapterId);
        let mut others: Vec<(Option<AdapterId>, Option<EventReceiver>)> =
            [None, Some(FIRST), Some(SECOND)]
                .into_iter()
                .filter(|other| *other != flooded)
                .map(|other| (other, None))
                .collect();
        let mut unread = Vec::new();
        let mut ended = 0;
        // Twenty wait at any time, all of them different, and every third step brings another.
        for number in 0..3000 {
            if number < 20 || number % 3 == 0 {
                let tokens = prompt(1000 + number, flood_length);
                unread.push(ask(&mut scheduler, flooded, &tokens, flood_tokens));
            }
            if number == 25 {
                for (other, events) in &mut others {
                    *events = Some(ask(&mut scheduler, *other, &prompt(7, 40), 5));
                }
            }
            step(&mut scheduler);
            unread.retain_mut(|events| received(events).1.is_none());
            for (other, events) in &mut others {
                let end = events.as_mut().map(received);
                if let Some((_, Some(AnswerEvent::Finished(_)))) = end {
                    *events = None;
                    ended += 1;
                } else if number > 25 && events.is_some() {
                    prop_assert!(number < 2900, "{:?} still waits", other);
                }
            }
            if ended == others.len() {
                break;
            }
        }
        prop_assert_eq!(ended, 2);
        scheduler.fail_all(WorkError::ShuttingDown);
    }
}
