use super::*;
use crate::engine::fake::FakeEngine;

#[test]
fn what_nobody_asks_for_goes_after_a_while_but_for_the_latest() {
    let shape = Shape {
        cells: 10_000,
        batch_rows: 512,
        ..crate::scheduler::tests::SHAPE
    };
    let mut cache = Cache::new(FakeEngine::new(shape), 0);
    let start = Instant::now();
    for number in 0..4 {
        let tokens = vec![Token(number); 1000];
        let prefix = Prefix {
            scope: PrefixScope::default(),
            tokens: &tokens,
        };
        let id = cache.acquire(0, prefix, start).expect("a sequence");
        cache.computed(id, &tokens);
        cache.park(id, start + Duration::from_secs(10) * number.unsigned_abs());
    }
    let mut after = |seconds| {
        for _step in 0..4 {
            cache.expire(start + Duration::from_secs(seconds));
        }
        cache.parked_cells()
    };
    assert_eq!(after(30), 4000);
    assert_eq!(after(45), 2000);
    assert_eq!(after(1000), 1000);
}
