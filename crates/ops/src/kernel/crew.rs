//! Threads that wait awake between the parallel loops of one operation.
//!
//! An operation is a dozen loops of some 100 microseconds with little between them. A pool's thread that has nothing to
//! do falls asleep within that time, and waking it costs as much as it sleeps: with two threads 8% of a step. So the
//! pool's threads are asked once an operation, and stay at hand until it ends.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// Rounds of waiting after which a thread lets others run: about a tenth of a millisecond.
const AWAKE: u32 = 1 << 12;

thread_local! {
    /// The crew that waits for this thread's loops; null where there is none, or where it is at work on one.
    static AT_HAND: Cell<*const Crew> = const { Cell::new(ptr::null()) };
}

/// Runs an operation with the threads of the pool at hand for its loops.
pub(crate) fn with_crew<R>(operation: impl FnOnce() -> R) -> R {
    let threads = rayon::current_num_threads();
    if threads < 2 || !AT_HAND.get().is_null() {
        return operation();
    }
    let crew = Crew::default();
    // The scope waits for every thread that has come, before the crew is gone.
    rayon::in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| crew.wait_for_loops());
        }
        let _end = Dismissed(&crew);
        AT_HAND.set(&raw const crew);
        operation()
    })
}

/// Calls `f` for each index below `count` on this thread and the crew's. `false` if no crew is at hand.
pub(super) fn each(count: usize, f: &(dyn Fn(usize) + Sync)) -> bool {
    let crew = AT_HAND.replace(ptr::null());
    if crew.is_null() {
        return false;
    }
    // A loop within `f` must not ask the crew again.
    let _again = AtHandAgain(crew);
    // SAFETY: it lives until `with_crew` takes the pointer away, further up this thread's stack.
    unsafe { &*crew }.run(&Loop { f, count });
    true
}

/// Sends the crew away at the end of an operation, also when it panics.
struct Dismissed<'a>(&'a Crew);

impl Drop for Dismissed<'_> {
    fn drop(&mut self) {
        AT_HAND.set(ptr::null());
        self.0.dismissed.store(true, Ordering::Release);
    }
}

struct AtHandAgain(*const Crew);

impl Drop for AtHandAgain {
    fn drop(&mut self) {
        AT_HAND.set(self.0);
    }
}

/// One parallel loop.
struct Loop<'a> {
    f: &'a (dyn Fn(usize) + Sync),
    count: usize,
}

/// What the threads of one operation share.
#[derive(Default)]
struct Crew {
    /// The loop at work; whoever has taken an index of it may read it until that index is finished.
    at_work: AtomicPtr<Loop<'static>>,
    /// Indices that nobody has taken yet.
    left: AtomicUsize,
    /// Indices that are finished.
    finished: AtomicUsize,
    dismissed: AtomicBool,
    /// The first panic of a loop.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Crew {
    fn run(&self, work: &Loop<'_>) {
        self.finished.store(0, Ordering::Relaxed);
        self.at_work.store(ptr::from_ref(work).cast::<Loop<'static>>().cast_mut(), Ordering::Relaxed);
        // Publishes both of the above.
        self.left.store(work.count, Ordering::Release);
        while self.take() {}
        let mut rounds = 0;
        while self.finished.load(Ordering::Acquire) < work.count {
            wait(&mut rounds);
        }
        let panic = self.panic.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn wait_for_loops(&self) {
        let mut rounds = 0;
        while !self.dismissed.load(Ordering::Acquire) {
            if self.take() {
                rounds = 0;
            } else {
                wait(&mut rounds);
            }
        }
    }

    /// Runs the loop at work for one index. `false` if none is left.
    fn take(&self) -> bool {
        let mut left = self.left.load(Ordering::Relaxed);
        loop {
            if left == 0 {
                return false;
            }
            match self.left.compare_exchange_weak(left, left - 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => left = now,
            }
        }
        // SAFETY: an index is taken and not finished, so that `run` has not returned, and the loop it was given lives.
        let Loop { f, count } = unsafe { &*self.at_work.load(Ordering::Relaxed) };
        // Unwinding must not leave before every index is finished: others may still be at work.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| f(count - left))) {
            self.panic.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(panic);
        }
        self.finished.fetch_add(1, Ordering::Release);
        true
    }
}

fn wait(rounds: &mut u32) {
    *rounds += 1;
    if rounds.is_multiple_of(AWAKE) {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Threads;
    use super::*;

    fn counted(loops: usize, count: usize) -> Vec<usize> {
        let hits: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        with_crew(|| {
            for _ in 0..loops {
                Threads::All.each(count, usize::MAX, |index| {
                    hits[index].fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        hits.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_index_of_every_loop_runs_once() {
        for count in [0, 1, 2, 3, 64] {
            assert_eq!(counted(500, count), vec![500; count]);
        }
    }

    #[test]
    fn loops_within_loops_and_crews_within_crews() {
        let hits = AtomicUsize::new(0);
        with_crew(|| {
            Threads::All.each(6, usize::MAX, |_| {
                with_crew(|| {
                    Threads::All.each(5, usize::MAX, |_| {
                        hits.fetch_add(1, Ordering::Relaxed);
                    });
                });
            });
        });
        assert_eq!(hits.into_inner(), 30);
    }

    #[test]
    fn a_panic_comes_out_after_the_others_are_done_and_the_crew_goes_on() {
        let hits = AtomicUsize::new(0);
        with_crew(|| {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                Threads::All.each(8, usize::MAX, |index| {
                    assert_ne!(index, 3, "the index that fails");
                    hits.fetch_add(1, Ordering::Relaxed);
                });
            }));
            assert!(panicked.is_err());
            assert_eq!(hits.load(Ordering::Relaxed), 7);
            Threads::All.each(8, usize::MAX, |_| {
                hits.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(hits.into_inner(), 15);
        assert_eq!(counted(3, 4), vec![3; 4]);
    }

    #[test]
    fn many_operations_at_once_end() {
        std::thread::scope(|scope| {
            let all: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..50).map(|_| counted(3, 7)).collect::<Vec<_>>())).collect();
            for one in all {
                assert!(one.join().unwrap().iter().all(|hits| *hits == vec![3; 7]));
            }
        });
    }
}
