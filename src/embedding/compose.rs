//! Decides which texts go into the next batch.

use crate::engine::Token;

/// How many of the next texts of each request the batch takes: one of each in turn, until the next
/// in turn of every request would bring it over `fill` tokens or there are `most` texts. The first
/// text of the first request goes in whatever its length; so every request gets on whose turn it
/// is to be the first, and one with a thousand texts does not keep one with a single text waiting.
#[must_use]
pub fn compose(todo: &[&[Vec<Token>]], fill: usize, most: usize) -> Vec<usize> {
    let mut counts = vec![0; todo.len()];
    let (mut tokens, mut texts) = (0, 0);
    loop {
        let before = texts;
        for (todo, count) in todo.iter().zip(&mut counts) {
            let Some(text) = todo.get(*count) else {
                continue;
            };
            if texts < most && (texts == 0 || tokens + text.len() <= fill) {
                tokens += text.len();
                texts += 1;
                *count += 1;
            }
        }
        if texts == before {
            return counts;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(lengths: &[usize]) -> Vec<Vec<Token>> {
        lengths
            .iter()
            .map(|length| vec![Token(1); *length])
            .collect()
    }

    fn counts(requests: &[&[usize]], fill: usize, most: usize) -> Vec<usize> {
        let requests: Vec<_> = requests.iter().map(|lengths| texts(lengths)).collect();
        let todo: Vec<_> = requests.iter().map(Vec::as_slice).collect();
        compose(&todo, fill, most)
    }

    #[test]
    fn requests_take_turns() {
        assert_eq!(counts(&[&[10; 50], &[10], &[10; 2]], 60, 99), [3, 1, 2]);
    }

    #[test]
    fn a_text_longer_than_the_filling_goes_alone_when_it_is_its_turn() {
        assert_eq!(counts(&[&[500, 10], &[10]], 100, 99), [1, 0]);
        assert_eq!(counts(&[&[10], &[500, 10]], 100, 99), [1, 0]);
    }

    #[test]
    fn no_more_texts_than_the_engine_has_sequences() {
        assert_eq!(counts(&[&[1; 9], &[1; 9]], 100, 5), [3, 2]);
    }

    #[test]
    fn nothing_to_do_is_an_empty_batch() {
        assert_eq!(counts(&[], 100, 5), [0; 0]);
    }

    proptest! {
        #[test]
        fn every_batch_gets_on_and_keeps_within_its_bounds(
            requests in prop::collection::vec(prop::collection::vec(1_usize..60, 1..20), 1..8),
            fill in 1_usize..200,
            most in 1_usize..10,
        ) {
            let requests: Vec<_> = requests.iter().map(|lengths| texts(lengths)).collect();
            let todo: Vec<_> = requests.iter().map(Vec::as_slice).collect();
            let counts = compose(&todo, fill, most);
            prop_assert!(counts[0] > 0);
            prop_assert!(counts.iter().sum::<usize>() <= most);
            let taken = todo.iter().zip(&counts).flat_map(|(todo, count)| &todo[..*count]);
            let tokens: usize = taken.map(Vec::len).sum();
            prop_assert!(tokens <= fill.max(todo[0][0].len()));
        }
    }
}
