//! Where two threads meet: a driver on one core, its device on the other.
//!
//! The device's thread is made first, then each is kept on its CPU (a thread inherits the mask of
//! the one that makes it). A sample is played without either sleeping: a ping-pong, the driver
//! against the device, a ping-pong. Every wait has a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::device::{BURST, Device};
use crate::driver::Driver;
use crate::machine::{pin, stolen_ticks, thread_cpu};
use crate::verdict::{Class, Rejection, Share, alone, median, place};

/// Round trips of a ping-pong, in pieces of which the median counts.
const PIECES: u32 = 10;
const TRIPS: u32 = 500;

/// Nobody waits longer for the other side.
const PATIENCE: Duration = Duration::from_secs(2);
/// Looks between two looks at the clock.
const LOOKS: u32 = 1 << 14;

/// A word on a line of its own, and on none that a neighbor brings along.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

/// The ball of a ping-pong. Each side has its own word of the one line: who polls the word that it
/// has just stored is given it out of its own store buffer for a while, and a trip looks half as
/// long again as it is.
#[derive(Debug, Default)]
#[repr(C)]
struct Ball {
    there: AtomicU32,
    between: [u32; 3],
    back: AtomicU32,
}

/// What both threads see.
#[derive(Debug, Default)]
struct Shared {
    /// The device's thread is at work.
    ready: Apart<AtomicBool>,
    ball: Apart<Ball>,
    /// The driver has done.
    stop: Apart<AtomicBool>,
}

/// What the device's thread does.
enum Job {
    /// A ping-pong, the device, a ping-pong.
    Play(Device),
    /// A ping-pong.
    Ping,
}

/// Two threads, each on its CPU. The one that opens the court plays the driver.
#[derive(Debug)]
pub struct Court {
    shared: Arc<Shared>,
    jobs: Sender<Job>,
    reports: Receiver<Share>,
    cpus: [usize; 2],
}

/// A sample that counts.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Where the cores were.
    pub class: Class,
    /// Nanoseconds of a chain.
    pub chain: f64,
    /// Nanoseconds of a round trip of one line, the mean of before and after.
    pub round_trip: f64,
}

/// What the driver's thread did.
struct Driven {
    chains: u64,
    took: Duration,
    stuck: bool,
}

impl Court {
    /// Makes the device's thread, and keeps it and this one on these CPUs.
    ///
    /// # Errors
    /// When a thread cannot be made or kept.
    pub fn open(cpus: [usize; 2]) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (jobs, inbox) = channel();
        let (outbox, reports) = channel();
        let (pinned, is_pinned) = channel();
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("device".into())
            .spawn(move || {
                // A court that is closed listens no more.
                let _closed = pinned.send(pin(cpus[1]));
                device_side(&theirs, &inbox, &outbox);
            })
            .context("cannot make a thread")?;
        let answer = is_pinned.recv_timeout(PATIENCE);
        answer.context("the device's thread does not start")??;
        pin(cpus[0])?;
        Ok(Self {
            shared,
            jobs,
            reports,
            cpus,
        })
    }

    /// Plays one sample, with at most `window` chains in flight, for about `length`.
    ///
    /// # Errors
    /// When the threads lose each other, which is not to be mended. Whether the sample counts is
    /// the inner result.
    pub fn play<D: Driver>(
        &self,
        driver: &mut D,
        device: Device,
        window: usize,
        length: Duration,
    ) -> Result<Result<Sample, Rejection>> {
        let stolen = stolen_ticks(&self.cpus)?;
        self.start(Job::Play(device))?;
        let (start, cpu) = (Instant::now(), thread_cpu());
        let before = lead(&self.shared);
        let driven = before.map(|_| drive(driver, window, length));
        self.shared.stop.0.store(true, Ordering::Release);
        let after = driven.as_ref().and_then(|_| lead(&self.shared));
        let share = Share {
            wall: start.elapsed(),
            cpu: thread_cpu() - cpu,
        };
        let theirs = self.report()?;
        let stolen = stolen_ticks(&self.cpus)? - stolen;
        let (Some(before), Some(driven), Some(after)) = (before, driven, after) else {
            return Ok(Err(Rejection::TimedOut));
        };
        if driven.stuck {
            return Ok(Err(Rejection::TimedOut));
        }
        let judged = alone(&[share, theirs], stolen).and_then(|()| place(before, after));
        Ok(judged.map(|class| Sample {
            class,
            chain: driven.took.as_nanos() as f64 / driven.chains as f64,
            round_trip: (before + after) / 2.0,
        }))
    }

    /// One ping-pong: nanoseconds of a round trip, and whether the threads were alone.
    ///
    /// # Errors
    /// When the threads lose each other.
    pub fn ping(&self) -> Result<Result<f64, Rejection>> {
        self.start(Job::Ping)?;
        let (start, cpu) = (Instant::now(), thread_cpu());
        let trip = lead(&self.shared);
        let share = Share {
            wall: start.elapsed(),
            cpu: thread_cpu() - cpu,
        };
        let theirs = self.report()?;
        let Some(trip) = trip else {
            return Ok(Err(Rejection::TimedOut));
        };
        Ok(alone(&[share, theirs], 0).map(|()| trip))
    }

    /// The CPUs of the driver and of the device.
    #[must_use]
    pub const fn cpus(&self) -> [usize; 2] {
        self.cpus
    }

    fn start(&self, job: Job) -> Result<()> {
        let Shared { ready, ball, stop } = &*self.shared;
        ready.0.store(false, Ordering::Relaxed);
        ball.0.there.store(0, Ordering::Relaxed);
        ball.0.back.store(0, Ordering::Relaxed);
        stop.0.store(false, Ordering::Relaxed);
        let sent = self.jobs.send(job);
        ensure!(sent.is_ok(), "the device's thread is gone");
        let there = patient(|| ready.0.load(Ordering::Acquire));
        ensure!(there, "the device's thread does not come");
        Ok(())
    }

    /// The device's thread has ended its part: nobody touches the driver's ring any more.
    fn report(&self) -> Result<Share> {
        let report = self.reports.recv_timeout(PATIENCE * 4);
        report.context("the device's thread does not end")
    }
}

/// The device's thread.
fn device_side(shared: &Shared, jobs: &Receiver<Job>, reports: &Sender<Share>) {
    while let Ok(job) = jobs.recv() {
        let (start, cpu) = (Instant::now(), thread_cpu());
        shared.ready.0.store(true, Ordering::Release);
        let met = follow(shared);
        if let (true, Job::Play(mut device)) = (met, job) {
            let stopped = patient_while(|| match device.run() {
                0 => shared.stop.0.load(Ordering::Acquire).then_some(()),
                _ => None,
            });
            if stopped {
                follow(shared);
            }
        }
        let share = Share {
            wall: start.elapsed(),
            cpu: thread_cpu() - cpu,
        };
        if reports.send(share).is_err() {
            return;
        }
    }
}

/// Bounded by the length of a sample, which is below [`PATIENCE`].
fn patient_while(mut look: impl FnMut() -> Option<()>) -> bool {
    // Not before a first lot of looks: reading the clock takes as long as half a round trip.
    let mut start = None;
    loop {
        for _ in 0..LOOKS {
            if look().is_some() {
                return true;
            }
        }
        let start: &Instant = start.get_or_insert_with(Instant::now);
        if start.elapsed() > PATIENCE * 2 {
            return false;
        }
    }
}

/// Looks until it is so, or too long.
fn patient(is_so: impl Fn() -> bool) -> bool {
    patient_while(|| is_so().then_some(()))
}

/// One side of a ping-pong: nanoseconds of a round trip, unless the other side is gone.
fn lead(shared: &Shared) -> Option<f64> {
    let Ball { there, back, .. } = &shared.ball.0;
    // A second ping-pong of a sample goes on from where the first ended.
    let first = there.load(Ordering::Relaxed);
    let mut pieces = Vec::new();
    for piece in 0..PIECES {
        let start = Instant::now();
        for trip in 1..=TRIPS {
            let number = first + piece * TRIPS + trip;
            there.store(number, Ordering::Release);
            if !patient(|| back.load(Ordering::Acquire) == number) {
                return None;
            }
        }
        pieces.push(start.elapsed().as_nanos() as f64 / f64::from(TRIPS));
    }
    median(pieces)
}

/// The other side of a ping-pong; false when the first is gone.
fn follow(shared: &Shared) -> bool {
    let Ball { there, back, .. } = &shared.ball.0;
    let first = back.load(Ordering::Relaxed);
    for trip in 1..=PIECES * TRIPS {
        if !patient(|| there.load(Ordering::Acquire) == first + trip) {
            return false;
        }
        back.store(first + trip, Ordering::Release);
    }
    true
}

/// Keeps `window` chains in flight, in bursts of 32 at most, and takes back what comes.
#[inline(never)] // one copy for each driver
fn drive<D: Driver>(driver: &mut D, window: usize, length: Duration) -> Driven {
    let mut in_flight = 0;
    let mut chains = 0u64;
    let start = Instant::now();
    let mut progress = start;
    loop {
        let before = chains;
        for _ in 0..256 {
            let room = (window - in_flight).min(BURST);
            if room != 0 {
                driver.submit(room);
                driver.publish();
                in_flight += room;
            }
            let reaped = driver.reap();
            in_flight -= reaped;
            chains += reaped as u64;
        }
        let now = Instant::now();
        let took = now - start;
        if chains != before {
            progress = now;
        }
        let stuck = now - progress > PATIENCE / 2;
        if took >= length || stuck {
            return Driven {
                chains,
                took,
                stuck: stuck || chains == 0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Areas;

    #[test]
    fn a_ball_that_nobody_returns_is_not_waited_for_longer_than_patience() {
        let start = Instant::now();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| follow(&Shared::default()));
            assert_eq!(lead(&Shared::default()), None);
            assert!(!other.join().unwrap());
        });
        assert!(start.elapsed() < PATIENCE * 4);
    }

    /// Two threads that wait busily for each other need two CPUs.
    fn two_cpus() -> Option<[usize; 2]> {
        let cpus = crate::machine::allowed_cpus().unwrap();
        cpus.first_chunk().copied()
    }

    /// A driver that hands in nothing, with a ring that a device can look at.
    struct Idle(Box<[u64; 1024]>);

    impl Driver for Idle {
        fn submit(&mut self, _: usize) {}
        fn publish(&mut self) {}
        fn kick(&mut self) {}
        fn reap(&mut self) -> usize {
            0
        }
        fn areas(&self) -> Areas {
            let addr = self.0.as_ptr().expose_provenance() as u64;
            Areas {
                desc: addr,
                driver: addr + 4096,
                device: addr + 6144,
                num: 16,
            }
        }
        fn pieces(&self) -> &'static [crate::item::Piece] {
            &[]
        }
        fn data_piece(&self) -> usize {
            0
        }
        fn owned(&self) -> Vec<crate::driver::Owned> {
            Vec::new()
        }
    }

    #[test]
    fn a_device_that_returns_nothing_is_given_up_on_and_the_court_stays_open() {
        let Some(cpus) = two_cpus() else { return };
        // The thread that opens a court is kept on a CPU.
        let play = move || {
            let court = Court::open(cpus).unwrap();
            let mut idle = Idle(Box::new([0; 1024]));
            // SAFETY: the ring is empty, and outlives the device, which `play` ends.
            let device = unsafe { Device::new(&idle.areas(), Default::default()) };
            let start = Instant::now();
            let outcome = court.play(&mut idle, device, 4, Duration::from_secs(60));
            assert_eq!(outcome.unwrap().unwrap_err(), Rejection::TimedOut);
            assert!(start.elapsed() < PATIENCE * 4);
            court.ping().unwrap()
        };
        let ping = std::thread::spawn(play).join().unwrap();
        assert_ne!(ping.err(), Some(Rejection::TimedOut));
    }

    #[test]
    fn two_threads_play_and_the_balls_number_goes_on() {
        if two_cpus().is_none() {
            return;
        }
        let shared = Shared::default();
        let trips = std::thread::scope(|scope| {
            let other = scope.spawn(|| follow(&shared) && follow(&shared));
            let trips = (lead(&shared), lead(&shared));
            assert!(other.join().unwrap());
            trips
        });
        assert!(trips.0.is_some_and(|ns| ns > 0.0) && trips.1.is_some());
        assert_eq!(
            shared.ball.0.back.load(Ordering::Relaxed),
            2 * PIECES * TRIPS
        );
    }
}
