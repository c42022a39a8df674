//! How far loading has come, and whether anybody still waits for it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// What those who wait for a model see of its loading, and their way to give it up.
#[derive(Debug, Default)]
pub struct LoadWatch {
    is_given_up: AtomicBool,
    percent: AtomicU8,
    moves: AtomicU64,
}

impl LoadWatch {
    /// Nobody waits any more: loading ends as soon as it can.
    pub fn give_up(&self) {
        self.is_given_up.store(true, Ordering::SeqCst);
    }

    /// Whether nobody waits any more.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::SeqCst)
    }

    /// How much of the file has been read, in percent. It is read twice, once for its digest.
    #[must_use]
    pub fn percent(&self) -> u8 {
        self.percent.load(Ordering::Relaxed)
    }

    /// Counts signs of loading that goes on: far more of them than percents, which are gigabytes of a large file.
    #[must_use]
    pub fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    /// Loading goes on, or ends by itself if it does not.
    pub(super) fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// So much of the digest is made, of 1.
    pub(super) fn digested(&self, share: f32) {
        self.reached(share / 2.0);
    }

    /// So much of the weights is read, of 1.
    pub(super) fn weighed(&self, share: f32) {
        self.reached(0.5 + share / 2.0);
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 100
    fn reached(&self, share: f32) {
        self.moved();
        let percent = (100.0 * share.clamp(0.0, 1.0)) as u8;
        self.percent.fetch_max(percent, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_goes_one_way_from_the_digest_to_the_weights() {
        let watch = LoadWatch::default();
        let mut seen = vec![watch.percent()];
        for step in [0.5, 1.0, 0.2] {
            watch.digested(step);
            seen.push(watch.percent());
        }
        for step in [f32::NAN, 0.5, 7.0] {
            watch.weighed(step);
            seen.push(watch.percent());
        }
        assert_eq!(seen, [0, 25, 50, 50, 50, 75, 100]);
        assert_eq!(watch.moves(), 6, "each is a sign of life");
    }
}
