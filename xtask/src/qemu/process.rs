//! Child processes that cannot outlive the run.
//!
//! A [`Guarded`] child is killed and reaped when it is dropped, and the kernel kills it when the
//! thread that spawned it dies (`PR_SET_PDEATHSIG`), so that even `kill -9` on the harness leaves
//! no QEMU behind. Children have a process group of their own: Ctrl-C on a terminal reaches the
//! harness alone, which then ends them in order.

use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process_group};

use super::limits::{Deadline, TICK};
use super::stop::Stop;

/// A child process that ends with its owner.
#[derive(Debug)]
pub(crate) struct Guarded {
    child: Child,
    name: String,
}

impl Guarded {
    /// Starts the command.
    pub(crate) fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.process_group(0);
        let parent = rustix::process::getpid();
        // SAFETY: between fork and exec only `prctl` and `getppid` are called, both of them bare
        // system calls that are async-signal-safe and allocate nothing.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(
                    rustix::process::Signal::KILL,
                ))?;
                // A parent that died before that call sends no signal any more.
                if rustix::process::getppid() == Some(parent) {
                    Ok(())
                } else {
                    Err(std::io::ErrorKind::BrokenPipe.into())
                }
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn try_wait(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Waits for the end of the process, within a limit.
    pub(crate) fn wait(&mut self, deadline: Deadline) -> Result<ExitStatus, Stop> {
        let waiting_for = format!("{} to end", self.name);
        deadline.poll(&waiting_for, || Ok(self.try_wait()?))
    }

    /// Ends what is left of the process and of its group: a request, then, where that does not
    /// help within `grace`, force.
    pub(crate) fn end_group(&mut self, grace: Duration) {
        let Some(group) = i32::try_from(self.id()).ok().and_then(Pid::from_raw) else {
            return;
        };
        if matches!(self.try_wait(), Ok(None)) {
            // Both signals find nobody when the group is gone, which is what is wanted.
            let _ = kill_process_group(group, Signal::TERM);
            let end = Instant::now() + grace;
            while matches!(self.try_wait(), Ok(None)) && Instant::now() < end {
                std::thread::sleep(TICK);
            }
        }
        let _ = kill_process_group(group, Signal::KILL);
        self.kill();
    }

    pub(crate) fn kill(&mut self) {
        // Both fail only when the process is gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a finished command printed.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// The end of what was printed, for a message.
    pub(crate) fn tail(&self) -> String {
        let text = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        tail(text, 12)
    }
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> Option<JoinHandle<String>> {
    pipe.map(|mut pipe| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // A pipe that breaks has said all it will.
            drop(pipe.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        })
    })
}

/// Runs a command to its end and collects what it prints.
pub(crate) fn run(command: &mut Command, deadline: Deadline) -> Result<Output, Stop> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = Guarded::spawn(command)?;
    let stdout = collect(child.child().stdout.take());
    let stderr = collect(child.child().stderr.take());
    let status = child.wait(deadline)?;
    let join = |handle: Option<JoinHandle<String>>| {
        handle
            .and_then(|handle| handle.join().ok())
            .unwrap_or_default()
    };
    Ok(Output {
        status,
        stdout: join(stdout),
        stderr: join(stderr),
    })
}

/// Runs a command that must succeed; the error carries what it printed.
pub(crate) fn run_ok(command: &mut Command, deadline: Deadline) -> Result<Output, Stop> {
    let shown = shell_words(command);
    let output = run(command, deadline)?;
    if output.status.success() {
        return Ok(output);
    }
    Err(Stop::Broken(anyhow::anyhow!(
        "`{shown}` failed ({}):\n{}",
        output.status,
        output.tail()
    )))
}

/// The command as a person would type it.
pub(crate) fn shell_words(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| {
            let word = word.to_string_lossy();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:+@".contains(c);
            if !word.is_empty() && word.chars().all(plain) {
                word.into_owned()
            } else {
                format!("'{}'", word.replace('\'', r"'\''"))
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// The first executable of that name on the search path.
pub(crate) fn find_program(name: &str) -> Option<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|path| {
            path.metadata()
                .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_collected_and_a_failure_shows_it() {
        let mut ok = Command::new("sh");
        ok.args(["-c", "echo out; echo err >&2"]);
        let output = run(&mut ok, Deadline::seconds(10)).unwrap();
        assert_eq!(
            (output.stdout.as_str(), output.stderr.as_str()),
            ("out\n", "err\n")
        );
        let mut bad = Command::new("sh");
        bad.args(["-c", "echo why >&2; exit 3"]);
        let stop = run_ok(&mut bad, Deadline::seconds(10)).unwrap_err();
        assert!(stop.to_string().contains("why"), "{stop}");
    }

    #[test]
    fn a_child_ends_with_its_owner() {
        let child = Guarded::spawn(Command::new("sleep").arg("1000")).unwrap();
        let pid = child.id();
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
        drop(child);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_group_ends_with_the_children_that_ignore_the_request() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; sleep 1000 & echo $!; wait"]);
        command.stdout(Stdio::piped());
        let mut parent = Guarded::spawn(&mut command).unwrap();
        let mut line = [0; 32];
        let n = parent.child().stdout.as_mut().unwrap().read(&mut line);
        let pid = String::from_utf8_lossy(&line[..n.unwrap()])
            .trim()
            .to_owned();
        let alive = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        assert!(alive());
        parent.end_group(Duration::from_millis(50));
        let gone = || Ok((!alive()).then_some(()));
        Deadline::seconds(10)
            .poll("the grandchild to end", gone)
            .unwrap();
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let stop = run(
            Command::new("sleep").arg("1000"),
            Deadline::after(std::time::Duration::from_millis(50)),
        )
        .unwrap_err();
        assert!(matches!(stop, Stop::TimeLimit { .. }));
    }
}
