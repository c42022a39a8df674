//! The locks of this crate: those of `std`, without poison.
//!
//! A panic ends one request or one thread and is reported where it happens; poison would hand it on to
//! everybody who takes the lock afterwards, and no failure of one request may reach another. What a
//! lock guards here is whole after every statement: a count, a map, a list, an `Option`.
//!
//! Not `parking_lot`, which decides the same. Its locks allocate while they hold the table that all of
//! its locks share, and a thread with a budget stops for good at an allocation
//! ([`crate::engine`]'s `budget`), so one bad chat template could stop every lock of the process.
#![expect(
    clippy::disallowed_types,
    reason = "this is what everybody else is to use instead"
)]

use std::sync::{self, PoisonError};

pub(crate) use std::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

/// A [`std::sync::Mutex`] without poison.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    /// Waits for the lock.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A [`std::sync::RwLock`] without poison.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(sync::RwLock::new(value))
    }

    /// Waits until nobody writes.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody reads or writes.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_panic_with_the_lock_held_does_not_reach_the_next_who_takes_it() {
        let mutex = Mutex::new(1);
        let rw_lock = RwLock::new(1);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let (mut locked, mut written) = (mutex.lock(), rw_lock.write());
            (*locked, *written) = (2, 2);
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert_eq!(*mutex.lock(), 2);
        assert_eq!(*rw_lock.read(), 2);
        assert_eq!(mutex.into_inner(), 2);
    }
}
