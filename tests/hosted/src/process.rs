//! A back end that does not outlive whoever started it.
//!
//! It is killed when its owner is dropped, by a panic too, and when it has run for longer than it
//! may: a front end that waits for an answer then finds its socket closed. Back ends that end with
//! their standard input end with this process even when it is killed.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How long a back end may take to listen.
const START: Duration = Duration::from_secs(30);
/// Between two looks at something.
const TICK: Duration = Duration::from_millis(10);
/// Lines of its output that a message shows.
const TAIL: usize = 15;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that serves a vhost-user socket.
pub struct BackEnd {
    name: String,
    child: Arc<Mutex<Child>>,
    output: Arc<Mutex<Vec<String>>>,
    helpers: Vec<JoinHandle<()>>,
    /// Dropping it ends the watch.
    watch: Option<Sender<()>>,
}

impl BackEnd {
    /// Starts it, for `limit` at most.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(mut command: Command, limit: Duration) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let output = Arc::default();
        let mut helpers = Vec::new();
        helpers.extend(child.stdout.take().map(|pipe| collect(pipe, &output)));
        helpers.extend(child.stderr.take().map(|pipe| collect(pipe, &output)));
        let child = Arc::new(Mutex::new(child));
        let (watch, ended) = channel();
        let (watched, log) = (child.clone(), output.clone());
        helpers.push(std::thread::spawn(move || {
            if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                lock(&log).push(format!("(killed: it ran for longer than {limit:?})"));
                // It fails only when the process is gone already.
                let _ = lock(&watched).kill();
            }
        }));
        Ok(Self {
            name,
            child,
            output,
            helpers,
            watch: Some(watch),
        })
    }

    /// Waits until `path` is there and `connect` has a connection.
    ///
    /// # Errors
    /// When the process ends, or does not listen for a long time.
    pub fn wait_for<T>(
        &self,
        path: &Path,
        mut connect: impl FnMut(&Path) -> std::io::Result<T>,
    ) -> anyhow::Result<T> {
        let end = Instant::now() + START;
        loop {
            let error = match connect(path) {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            if let Some(status) = lock(&self.child).try_wait()? {
                bail!("{} ended ({status}):\n{self}", self.name);
            }
            if Instant::now() > end {
                let path = path.display();
                bail!("{} does not listen at {path} ({error}):\n{self}", self.name);
            }
            std::thread::sleep(TICK);
        }
    }

    /// Its number in the system.
    #[must_use]
    pub fn id(&self) -> u32 {
        lock(&self.child).id()
    }

    /// Waits for a line of its output that `is_it`, of those behind the first `from`; and returns
    /// those, up to and with that one.
    ///
    /// # Errors
    /// When the process ends, or there is none within `limit`.
    pub fn wait_for_line(
        &self,
        from: usize,
        limit: Duration,
        is_it: impl Fn(&str) -> bool,
    ) -> anyhow::Result<Vec<String>> {
        let end = Instant::now() + limit;
        loop {
            // Looked at first: what it printed before it ended is there then.
            let ended = lock(&self.child).try_wait()?;
            let output = lock(&self.output);
            let new = output.get(from..).unwrap_or_default();
            if let Some(at) = new.iter().position(|line| is_it(line)) {
                return Ok(new[..=at].to_vec());
            }
            drop(output);
            if let Some(status) = ended {
                bail!("{} ended ({status}):\n{self}", self.name);
            }
            if Instant::now() > end {
                bail!("{} does not say what it should:\n{self}", self.name);
            }
            std::thread::sleep(TICK / 5);
        }
    }

    /// How many lines it has printed.
    #[must_use]
    pub fn line_count(&self) -> usize {
        lock(&self.output).len()
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// When it reads no more.
    pub fn say(&self, line: &str) -> anyhow::Result<()> {
        let mut child = lock(&self.child);
        let stdin = child.stdin.as_mut().context("it has no standard input")?;
        writeln!(stdin, "{line}")
            .and_then(|()| stdin.flush())
            .with_context(|| format!("{} takes no commands", self.name))
    }

    /// What it has printed, line by line.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        lock(&self.output).clone()
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(&self) {
        let mut child = lock(&self.child);
        // Both fail only when the process is gone already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn collect(pipe: impl Read + Send + 'static, output: &Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    let output = output.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            lock(&output).push(line);
        }
    })
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        self.watch = None;
        self.kill();
        for helper in self.helpers.drain(..) {
            // They do not panic, and end with the process.
            let _ = helper.join();
        }
    }
}

impl fmt::Debug for BackEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackEnd")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The end of what it printed.
impl fmt::Display for BackEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.lines();
        let from = lines.len().saturating_sub(TAIL);
        lines
            .iter()
            .skip(from)
            .try_for_each(|line| writeln!(f, "  {line}"))
    }
}
