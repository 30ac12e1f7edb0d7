//! The threads that the kernels share: the caller and one helper per further core.
//!
//! A forward pass consists of hundreds of parallel steps of a fraction of a millisecond. Waking a sleeping thread costs as much
//! as some of them, so helpers look for work a while before they sleep.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Looks at the work before a helper sleeps: about 100 microseconds.
const LOOKS: usize = 20_000;

/// Of threads that compute, see [`give_way`]: their weight is a third of the others'.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

type Job<'a> = dyn Fn(usize) + Sync + 'a;

/// A set of threads that run one job at a time.
pub struct Pool {
    shared: Arc<Shared>,
    /// Held while a job runs: a second caller computes on its own thread instead of waiting.
    turn: Mutex<()>,
    helpers: usize,
}

struct Shared {
    /// Goes up by one with every job; helpers look at it.
    round: AtomicUsize,
    job: Mutex<Option<Current>>,
    arrived: Condvar,
    sleeping: AtomicUsize,
}

/// The job of a round: valid as long as the state has indices left.
#[derive(Clone)]
struct Current {
    job: *const Job<'static>,
    state: Arc<State>,
}

// SAFETY: the job is `Sync`, and `State::work` says when it may be called.
unsafe impl Send for Current {}

struct State {
    next: AtomicUsize,
    count: usize,
    /// Tasks that are done.
    done: AtomicUsize,
    panicked: AtomicBool,
}

impl State {
    fn work(&self, job: *const Job<'_>) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.count {
                return;
            }
            // SAFETY: `Pool::run` lets go of the job only when all indices below `count` are done, and this one is not.
            let job = unsafe { &*job };
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(index))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.done.fetch_add(1, Ordering::Release);
        }
    }
}

impl Pool {
    /// A pool of `threads` in all, the caller's included; threads that cannot be started are done without.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            round: AtomicUsize::new(0),
            job: Mutex::new(None),
            arrived: Condvar::new(),
            sleeping: AtomicUsize::new(0),
        });
        let started = (1..threads).filter(|index| {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("kernels-{index}"));
            let work = move || {
                give_way();
                shared.help();
            };
            builder.spawn(work).is_ok()
        });
        let helpers = started.count();
        Self { shared, turn: Mutex::new(()), helpers }
    }

    /// Threads that work on a job, the caller's included.
    pub fn threads(&self) -> usize {
        self.helpers + 1
    }

    /// Runs `job` for every index below `count`, on all threads, and returns when all are done.
    ///
    /// # Panics
    /// When `job` does, after all other indices are done.
    pub fn run(&self, count: usize, job: &Job<'_>) {
        let turn = self.turn.try_lock();
        if count <= 1 || self.helpers == 0 || turn.is_err() {
            (0..count).for_each(job);
            return;
        }
        let state = Arc::new(State {
            next: AtomicUsize::new(0),
            count,
            done: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
        });
        // SAFETY: only the lifetime changes, and a pointer promises none.
        let pointer = unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(job) };
        self.shared.publish(Current { job: pointer, state: Arc::clone(&state) });
        state.work(job);
        let mut looks = 0usize;
        while state.done.load(Ordering::Acquire) < count {
            looks += 1;
            // The helper may have been put aside by the system in the middle of a task: then the core is better used by it.
            if looks > LOOKS { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        drop(turn);
        assert!(!state.panicked.load(Ordering::Relaxed), "a kernel panicked; its message is above");
    }

    /// Runs `job` for chunks of `size` of `values` and their index, on all threads.
    pub fn chunks<T: Send>(&self, values: &mut [T], size: usize, job: impl Fn(usize, &mut [T]) + Sync) {
        self.each(values.chunks_mut(size.max(1)).enumerate(), false, |(index, chunk)| job(index, chunk));
    }

    /// Runs `job` for every item, on all threads; on the caller's alone when it is little work.
    pub fn each<I: Send>(&self, items: impl Iterator<Item = I>, little: bool, job: impl Fn(I) + Sync) {
        if little || self.helpers == 0 {
            items.for_each(job);
            return;
        }
        let items: Vec<Mutex<Option<I>>> = items.map(|item| Mutex::new(Some(item))).collect();
        self.run(items.len(), &|index| {
            let item = items[index].lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(item) = item {
                job(item);
            }
        });
    }
}

/// Lets other threads run before this one, from now on. A thread that computes for tens of milliseconds in a row otherwise
/// keeps those waiting that accept messages and write to the disk, which need microseconds: with all cores busy, a customer
/// was heard after 240 ms instead of 1,300 (`respondo bench overload` without a language model).
pub fn give_way() {
    // Elsewhere the call is about the whole process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "a computing thread keeps its priority");
    }
}

impl Shared {
    fn publish(&self, current: Current) {
        let mut job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        *job = Some(current);
        self.round.fetch_add(1, Ordering::Release);
        drop(job);
        if self.sleeping.load(Ordering::SeqCst) > 0 {
            self.arrived.notify_all();
        }
    }

    fn help(&self) {
        let mut seen = 0;
        loop {
            let mut looks = 0;
            while self.round.load(Ordering::Acquire) == seen && looks < LOOKS {
                looks += 1;
                std::hint::spin_loop();
            }
            let mut job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
            while self.round.load(Ordering::Acquire) == seen {
                self.sleeping.fetch_add(1, Ordering::SeqCst);
                job = self.arrived.wait(job).unwrap_or_else(PoisonError::into_inner);
                self.sleeping.fetch_sub(1, Ordering::SeqCst);
            }
            seen = self.round.load(Ordering::Acquire);
            let current = job.clone();
            drop(job);
            if let Some(Current { job, state }) = current {
                state.work(job);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_is_run_once() {
        let pool = Pool::new(3);
        for count in [0, 1, 2, 100] {
            for _ in 0..200 {
                let counts: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                pool.run(count, &|index| {
                    counts[index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn helpers_that_sleep_are_woken_and_several_callers_are_served() {
        let pool = Pool::new(2);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let sum = AtomicUsize::new(0);
                        pool.run(50, &|index| {
                            sum.fetch_add(index, Ordering::Relaxed);
                        });
                        assert_eq!(sum.into_inner(), 1225);
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(2);
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(10, &|index| assert!(index != 7, "as wanted"));
        }));
        assert!(failed.is_err());
        let mut values = vec![1; 100];
        pool.chunks(&mut values, 7, |index, chunk| chunk.fill(index));
        assert_eq!((values[0], values[99]), (0, 14));
    }
}
