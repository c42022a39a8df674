//! In which batches a sequence is computed that has to come out the same, bit by bit, each time.
//! Which cells it may have from others is decided in `cache::exact`.

use super::running::RunningSequence;

/// A row of a prompt is never computed by itself: it would be by another method.
pub(super) const LEAST_ROWS: usize = 2;

/// How many rows a sequence computes exactly of the `share` that it may have, when it has `computed`
/// tokens so far and a prompt of `prompt` tokens. The batches are the same each time: of a prompt
/// two rows at least, or whole blocks; of an answer, which was preempted, one row at a time.
pub(super) fn exact_share(computed: usize, prompt: usize, share: usize, block: usize) -> usize {
    if share == 0 || computed >= prompt {
        return share.min(1);
    }
    let missing = prompt - computed;
    if block > 1 {
        let whole = if share >= missing {
            missing
        } else {
            share / block * block
        };
        return whole.max(block).min(missing);
    }
    let share = share.max(LEAST_ROWS);
    if share + 1 == missing {
        // The next batch would have a single row.
        return if share > LEAST_ROWS {
            share - 1
        } else {
            missing
        };
    }
    share.min(missing)
}

/// Cuts the shares of exact sequences, each of which has a partition to itself, to what they compute
/// each time, or to none where there are not as many of these `cells`. Without a `block` the engine
/// promises nothing, and no sequence is exact.
pub(super) fn limit(
    running: &[RunningSequence],
    shares: &mut [usize],
    block: Option<usize>,
    cells: usize,
) {
    let Some(block) = block else {
        return;
    };
    let mut left = cells.saturating_sub(shares.iter().sum());
    for (running, share) in running.iter().zip(shares) {
        if !running.sequence.is_exact() {
            continue;
        }
        let exact = running.sequence.exact_share(*share, block);
        left += *share;
        *share = if exact <= left { exact } else { 0 };
        left -= *share;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_prompt_is_computed_in_the_same_batches_whatever_there_is_time_for(
            prompt in 1_usize..300,
            shares in prop::collection::vec(1_usize..200, 1..40),
            block in prop::sample::select(vec![1_usize, 2, 32]),
        ) {
            let mut computed = 0;
            for share in shares.iter().cycle() {
                if computed == prompt {
                    break;
                }
                let rows = exact_share(computed, prompt, (*share).min(prompt - computed), block);
                prop_assert!(rows > 0 && computed + rows <= prompt);
                if block == 1 {
                    prop_assert!(rows > 1 || prompt == 1, "{rows} rows behind {computed} of {prompt}");
                } else {
                    let end = computed + rows;
                    prop_assert!(end.is_multiple_of(block) || end == prompt);
                }
                computed += rows;
            }
        }
    }

    #[test]
    fn a_preempted_answer_is_computed_row_by_row() {
        for block in [1, 32] {
            assert_eq!(exact_share(40, 40, 17, block), 1);
            assert_eq!(exact_share(41, 40, 0, block), 0);
        }
    }
}
