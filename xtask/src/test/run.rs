//! Running the commands of a section: into its log, within its time, and to the last process.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::num::NonZero;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::context::Context;
use crate::qemu::limits::Deadline;
use crate::qemu::process::{self, Guarded};
use crate::qemu::stop::Stop;

/// How long a command that is told to end may take before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// A command, as it is run and as it is shown.
#[derive(Clone, Debug)]
pub(crate) struct Cmd {
    program: OsString,
    words: Vec<OsString>,
    env: Vec<(&'static str, String)>,
}

impl Cmd {
    pub(crate) fn new<W: AsRef<OsStr>>(
        program: impl Into<OsString>,
        words: impl IntoIterator<Item = W>,
    ) -> Self {
        Self {
            program: program.into(),
            words: Vec::new(),
            env: Vec::new(),
        }
        .args(words)
    }

    /// The cargo that runs this program.
    pub(crate) fn cargo<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> Self {
        Self::new("cargo", words)
    }

    /// Cargo of another toolchain, by way of rustup.
    pub(crate) fn cargo_of<W: AsRef<OsStr>>(
        toolchain: &str,
        words: impl IntoIterator<Item = W>,
    ) -> Self {
        Self::new("rustup", ["run", toolchain, "cargo"]).args(words)
    }

    pub(crate) fn args<W: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.words
            .extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// As a person would type it.
    pub(crate) fn shown(&self) -> String {
        let env = self.env.iter().map(|(name, value)| {
            let quote = if value.contains(' ') { "'" } else { "" };
            format!("{name}={quote}{value}{quote} ")
        });
        let mut command = Command::new(&self.program);
        command.args(&self.words);
        env.collect::<String>() + &process::shell_words(&command)
    }

    pub(crate) fn command(&self, dir: &Path) -> Command {
        let program = match std::env::var_os("CARGO") {
            Some(cargo) if self.program == "cargo" => cargo,
            _ => self.program.clone(),
        };
        let mut command = Command::new(program);
        command.args(&self.words).current_dir(dir);
        // What cargo set for this program is not for another toolchain's.
        command.env_remove("LD_LIBRARY_PATH");
        command.env("CARGO_TERM_COLOR", "never");
        command.env("CARGO_TERM_PROGRESS_WHEN", "never");
        command.env("RUSTUP_AUTO_INSTALL", "0");
        for (name, value) in &self.env {
            command.env(name, value);
        }
        command
    }
}

/// What a command printed, on both streams in order.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) status: ExitStatus,
    pub(crate) text: String,
}

impl Printed {
    pub(crate) fn ok(&self) -> bool {
        self.status.success()
    }

    /// `exit code 1`, `killed by signal 9`.
    pub(crate) fn ending(&self) -> String {
        use std::os::unix::process::ExitStatusExt as _;
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => self.status.to_string(),
        }
    }
}

/// A section that is running.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) context: &'a Context,
    deadline: Deadline,
    log: File,
    /// Commands of the current check, as they were run.
    pub(crate) commands: Vec<String>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(context: &'a Context, log: &Path, seconds: u64) -> anyhow::Result<Self> {
        Ok(Self {
            context,
            deadline: Deadline::seconds(seconds),
            log: File::create(log).with_context(|| format!("cannot write {}", log.display()))?,
            commands: Vec::new(),
        })
    }

    /// Seconds that are left.
    pub(crate) fn left(&self) -> u64 {
        self.deadline.left().as_secs()
    }

    /// Writes a line into the log.
    pub(crate) fn say(&mut self, text: &str) -> Result<(), Stop> {
        writeln!(self.log, "{text}").context("cannot write the log")?;
        Ok(())
    }

    /// Runs a command to its end, its output into the log. However it ends, so do its children.
    pub(crate) fn command(&mut self, cmd: &Cmd) -> Result<Printed, Stop> {
        let workspace = self.context.workspace.clone();
        self.command_in(cmd, &workspace)
    }

    /// The same in another directory.
    pub(crate) fn command_in(&mut self, cmd: &Cmd, dir: &Path) -> Result<Printed, Stop> {
        self.command_until(cmd, dir, self.deadline)
    }

    /// The same in another directory and within a time of its own; `None` when that runs out.
    pub(crate) fn command_within(
        &mut self,
        cmd: &Cmd,
        dir: &Path,
        seconds: u64,
    ) -> Result<Option<Printed>, Stop> {
        match self.command_until(cmd, dir, self.deadline.within(seconds)) {
            Err(Stop::TimeLimit { .. }) if !self.deadline.left().is_zero() => Ok(None),
            ended => ended.map(Some),
        }
    }

    fn command_until(
        &mut self,
        cmd: &Cmd,
        dir: &Path,
        deadline: Deadline,
    ) -> Result<Printed, Stop> {
        let shown = self.note(cmd)?;
        let log = self.log.try_clone().context("cannot share the log")?;
        let (status, text) = Running::start(cmd, shown, dir, Some(log))?.end(&deadline);
        Ok(Printed {
            status: status?,
            text,
        })
    }

    /// Runs commands side by side to their ends; what each printed gets into the log after it.
    pub(crate) fn each(&mut self, cmds: &[Cmd]) -> Result<Vec<Printed>, Stop> {
        let mut running = Vec::new();
        for cmd in cmds {
            let shown = self.note(cmd)?;
            running.push(Running::start(cmd, shown, &self.context.workspace, None)?);
        }
        // Each is ended, also when another ran out of time.
        let ended: Vec<_> = running.into_iter().map(|r| r.end(&self.deadline)).collect();
        for (_, text) in &ended {
            self.say(text)?;
        }
        let printed = |(status, text): (Result<ExitStatus, Stop>, String)| {
            let status = status?;
            Ok(Printed { status, text })
        };
        ended.into_iter().map(printed).collect()
    }

    /// Runs commands to their ends, in their order, and as many at a time as there are cores; what
    /// each printed, which gets into the log after them, and its seconds.
    pub(crate) fn pool(&mut self, cmds: &[Cmd]) -> Result<Vec<(Printed, f64)>, Stop> {
        let shown: Vec<String> = cmds
            .iter()
            .map(|cmd| self.note(cmd))
            .collect::<Result<_, _>>()?;
        let (deadline, dir) = (self.deadline, self.context.workspace.as_path());
        let next = AtomicUsize::new(0);
        let lane = || {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let (Some(cmd), Some(shown)) = (cmds.get(at), shown.get(at)) else {
                    return done;
                };
                let start = Instant::now();
                let (ended, text) = match Running::start(cmd, shown.clone(), dir, None) {
                    Ok(running) => running.end(&deadline),
                    Err(stop) => (Err(stop), String::new()),
                };
                let stopped = ended.is_err();
                done.push((at, ended, text, start.elapsed().as_secs_f64()));
                if stopped {
                    return done;
                }
            }
        };
        let lanes = std::thread::available_parallelism().map_or(1, NonZero::get);
        let mut done: Vec<_> = std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
            let lanes = lanes.into_iter();
            lanes
                .flat_map(|lane| lane.join().unwrap_or_default())
                .collect()
        });
        done.sort_by_key(|(at, ..)| *at);
        for (_, _, text, _) in &done {
            self.say(text)?;
        }
        let printed: Vec<_> = done
            .into_iter()
            .map(|(_, status, text, seconds)| {
                let status = status?;
                Ok((Printed { status, text }, seconds))
            })
            .collect::<Result<_, Stop>>()?;
        if printed.len() != cmds.len() {
            return Err(anyhow::anyhow!("{} of {} ran", printed.len(), cmds.len()).into());
        }
        Ok(printed)
    }

    /// Runs a command to its end, within `seconds`, and hands each line of its standard output on
    /// as it comes. Standard error goes into the log. However it ends, so do its children.
    pub(crate) fn follow(
        &mut self,
        cmd: &Cmd,
        seconds: u64,
        take: &mut dyn FnMut(&str),
    ) -> Result<ExitStatus, Stop> {
        let shown = self.note(cmd)?;
        let log = || self.log.try_clone().context("cannot share the log");
        let mut command = cmd.command(&self.context.workspace);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log()?);
        let mut log = log()?;
        let mut child = Guarded::spawn(&mut command)?;
        let stdout = child.child().stdout.take().context("a pipe")?;
        let (sender, lines) = std::sync::mpsc::channel();
        // It ends with the pipe, or when nobody listens any more.
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.map(|line| sender.send(line)).all(|sent| sent.is_ok())
        });
        let mut hear = |line: String| {
            // A log that cannot be written shows when the next line is said.
            drop(writeln!(log, "{line}"));
            take(&line);
        };
        let waited = self
            .deadline
            .within(seconds)
            .poll(&format!("`{shown}`"), || {
                lines.try_iter().for_each(&mut hear);
                Ok(child.try_wait()?)
            });
        child.end_group(GRACE);
        // What it said last; a stray child may hold the pipe open.
        while let Ok(line) = lines.recv_timeout(Duration::from_secs(1)) {
            hear(line);
        }
        waited
    }

    /// Notes that a command is run; how it is shown.
    fn note(&mut self, cmd: &Cmd) -> Result<String, Stop> {
        let shown = cmd.shown();
        self.say(&format!("$ {shown}"))?;
        self.commands.push(shown.clone());
        Ok(shown)
    }
}

/// A command that runs.
struct Running {
    shown: String,
    child: Guarded,
    collector: JoinHandle<String>,
}

impl Running {
    /// Starts a command, its output as it comes into `log`, if there is one.
    fn start(cmd: &Cmd, shown: String, dir: &Path, mut log: Option<File>) -> Result<Self, Stop> {
        // One pipe for both streams keeps their lines in order.
        let (mut reader, writer) = std::io::pipe().context("cannot make a pipe")?;
        let mut command = cmd.command(dir);
        command.stdin(Stdio::null());
        command.stdout(writer.try_clone().context("cannot share a pipe")?);
        command.stderr(writer);
        let child = Guarded::spawn(&mut command)?;
        // The command holds the ends that its child writes to; they must not keep the pipe open.
        drop(command);
        let collector = std::thread::spawn(move || {
            let mut text = Vec::new();
            let mut block = [0; 8192];
            while let Ok(n @ 1..) = reader.read(&mut block) {
                let block = block.get(..n).unwrap_or_default();
                text.extend_from_slice(block);
                // A log that cannot be written shows when the next line is said.
                drop(log.as_mut().map(|log| log.write_all(block)));
            }
            String::from_utf8_lossy(&text).into_owned()
        });
        Ok(Self {
            shown,
            child,
            collector,
        })
    }

    /// Waits for its end, and ends its children; how it ended, and what it printed.
    fn end(mut self, deadline: &Deadline) -> (Result<ExitStatus, Stop>, String) {
        let waiting_for = format!("`{}`", self.shown);
        let waited = deadline.poll(&waiting_for, || Ok(self.child.try_wait()?));
        self.child.end_group(GRACE);
        (waited, self.collector.join().unwrap_or_default())
    }
}
