//! What the prefix tree costs a step: 16 sequences run and 184 are parked, of ten stores with a
//! prompt of 760 tokens each.
#![allow(missing_docs)] // `criterion_group!` makes a public function

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use edgellm::{admission, engine};
use engine::{SeqId, Token};

// The tree is nobody's business but the scheduler's, so its source is compiled in here.
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../src/scheduler/prefix.rs"]
mod prefix;

use prefix::{Prefix, PrefixScope, PrefixTree};

const SEQUENCES: u32 = 200;
const RUNNING: u32 = 16;
const STORES: u32 = 10;

/// A store's prompt and a question of its own: 760 and 40 tokens.
fn request(number: u32) -> Vec<Token> {
    let store = number % STORES;
    let prompt = (0..760).map(|place| store * 1000 + place);
    let question = (0..40).map(|place| 100_000 + number * 100 + place);
    let tokens = prompt.chain(question);
    tokens
        .filter_map(|token| i32::try_from(token).ok().map(Token))
        .collect()
}

const SCOPE: PrefixScope = PrefixScope {
    group: admission::PrefixGroup(0),
    adapter: None,
};

fn prefix(tokens: &[Token]) -> Prefix<'_> {
    Prefix {
        scope: SCOPE,
        tokens,
    }
}

/// Takes in a request as the cache does.
fn begin(tree: &mut PrefixTree, number: u32) {
    let tokens = request(number);
    let shared = tree
        .share(SeqId(number), prefix(&tokens))
        .map_or(0, |(length, _)| length);
    tree.extend(SeqId(number), SCOPE, &tokens[shared..]);
}

fn full_tree() -> PrefixTree {
    let mut tree = PrefixTree::default();
    (0..SEQUENCES).for_each(|number| begin(&mut tree, number));
    tree
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("prefix tree, 200 sequences");
    let mut tree = full_tree();
    let (known, unknown) = (request(7), vec![Token(-1); 800]);
    group.bench_function("match of a known prompt", |bench| {
        bench.iter(|| tree.match_length(prefix(black_box(&known))));
    });
    group.bench_function("match of an unknown prompt", |bench| {
        bench.iter(|| tree.match_length(prefix(black_box(&unknown))));
    });
    group.bench_function("cells of running sequences", |bench| {
        bench.iter(|| tree.cells_held_by(|id| id.0 < black_box(RUNNING)));
    });
    group.bench_function("a request comes and goes", |bench| {
        bench.iter(|| {
            begin(&mut tree, SEQUENCES);
            tree.release(SeqId(SEQUENCES));
        });
    });
    group.bench_function("a token for each of 16", |bench| {
        bench.iter_batched_ref(
            full_tree,
            |tree| (0..RUNNING).for_each(|number| tree.extend(SeqId(number), SCOPE, &[Token(1)])),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(prefix_tree, benches);
criterion_main!(prefix_tree);
