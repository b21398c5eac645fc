//! Linux's own ring benchmark, `tools/virtio/ringtest`, between two ping-pongs.
//!
//! It is a program of its own, under the GPL, that somebody else fetches and builds; it moves so
//! many messages between two threads, and says nothing. What starting it takes is measured with
//! few messages, and subtracted.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bench_process::court::{Court, Sample};
use bench_process::machine::{children_cpu, stolen_ticks};
use bench_process::verdict::{Rejection, Share, alone, place};

/// As reports call it.
pub(crate) const NAME: &str = "Linux ringtest ring.c";

/// Messages of a run that is as good as none.
const FEW: u64 = 1000;
/// Seconds of CPU time after which the kernel ends it.
const CPU_SECONDS: u64 = 5;

/// The program.
#[derive(Debug)]
pub(crate) struct Ringtest {
    ring: PathBuf,
}

/// One run of it.
#[derive(Clone, Copy, Debug)]
struct Ran {
    wall: Duration,
    /// On both CPUs.
    cpu: Duration,
}

impl Ringtest {
    /// The program in a directory where it was built, tried once on these CPUs.
    pub(crate) fn find(dir: &Path, cpus: [usize; 2]) -> Result<Self> {
        let ring = dir.join("ring");
        ensure!(
            ring.is_file(),
            "{} is not there: build Linux's tools/virtio/ringtest, or leave --ringtest out",
            ring.display()
        );
        let ringtest = Self { ring };
        let ran = ringtest.run(cpus, 1, FEW)?;
        let ring = ringtest.ring.display();
        ensure!(
            ran.is_some(),
            "{ring} fails, or takes too long, for {FEW} messages"
        );
        Ok(ringtest)
    }

    /// One sample, with at most `window` messages in flight.
    pub(crate) fn sample(&self, court: &Court, window: usize) -> Result<Result<Sample, Rejection>> {
        // About a tenth of a second where cores are near.
        let messages = if window == 1 { 1_000_000 } else { 4_000_000 };
        let start = self.run(court.cpus(), window, FEW)?;
        let stolen = stolen_ticks(&court.cpus())?;
        let before = court.ping()?;
        let run = self.run(court.cpus(), window, messages)?;
        let after = court.ping()?;
        let stolen = stolen_ticks(&court.cpus())? - stolen;
        let (before, after) = match (before, after) {
            (Ok(before), Ok(after)) => (before, after),
            (Err(why), _) | (_, Err(why)) => return Ok(Err(why)),
        };
        let (Some(start), Some(run)) = (start, run) else {
            return Ok(Err(Rejection::TimedOut));
        };
        Ok(judge(start, run, stolen).and_then(|took| {
            place(before, after).map(|class| Sample {
                class,
                chain: took.as_nanos() as f64 / (messages - FEW) as f64,
                round_trip: (before + after) / 2.0,
            })
        }))
    }

    /// Moves some messages; `None` when it fails, or takes too long.
    fn run(&self, cpus: [usize; 2], window: usize, messages: u64) -> Result<Option<Ran>> {
        let [driver, device] = cpus;
        let mut command = Command::new(&self.ring);
        command
            .args(["--host-affinity", &device.to_string()])
            .args(["--guest-affinity", &driver.to_string()])
            .args(["--outstanding", &window.to_string()])
            .args(["--run-cycles", &messages.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // SAFETY: the closure makes two system calls, and no memory.
        unsafe { command.pre_exec(bound) };
        let (start, cpu) = (Instant::now(), children_cpu());
        let status = command.status();
        let status = status.with_context(|| format!("cannot run {}", self.ring.display()))?;
        let ran = Ran {
            wall: start.elapsed(),
            cpu: children_cpu() - cpu,
        };
        Ok(status.success().then_some(ran))
    }
}

/// In the child: it ends with its parent, and when it takes too long, which it can only do busily.
fn bound() -> std::io::Result<()> {
    use nix::sys::resource::{Resource, setrlimit};
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    setrlimit(Resource::RLIMIT_CPU, CPU_SECONDS, CPU_SECONDS)?;
    Ok(())
}

/// What the messages took, when both threads had their CPUs for themselves meanwhile.
fn judge(start: Ran, run: Ran, stolen: u64) -> Result<Duration, Rejection> {
    let wall = run.wall.saturating_sub(start.wall);
    let cpu = run.cpu.saturating_sub(start.cpu) / 2;
    alone(&[Share { wall, cpu }], stolen)?;
    Ok(wall)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(wall: u64, cpu: u64) -> Ran {
        Ran {
            wall: Duration::from_millis(wall),
            cpu: Duration::from_millis(cpu),
        }
    }

    #[test]
    fn starting_it_does_not_count() {
        let took = judge(ran(3, 2), ran(103, 201), 0);
        assert_eq!(took, Ok(Duration::from_millis(100)));
    }

    #[test]
    fn it_was_not_alone_when_its_threads_waited() {
        let waited = judge(ran(3, 2), ran(103, 180), 0);
        assert_eq!(waited, Err(Rejection::NotAlone));
        let robbed = judge(ran(3, 2), ran(103, 202), 1);
        assert_eq!(robbed, Err(Rejection::NotAlone));
    }

    #[test]
    fn a_directory_without_it_says_what_to_do() {
        let why = Ringtest::find(Path::new("/nonexistent"), [0, 1]);
        let why = why.unwrap_err().to_string();
        assert!(why.contains("leave --ringtest out"), "{why}");
    }

    #[test]
    fn a_program_that_fails_is_no_sample() {
        let of = |ring: &str| Ringtest { ring: ring.into() }.run([0, 1], 1, FEW);
        assert!(of("/bin/false").unwrap().is_none());
        assert!(of("/bin/true").unwrap().is_some());
        assert!(of("/nonexistent").is_err());
    }
}
