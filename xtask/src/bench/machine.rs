//! On what the figures were taken.

use std::process::Command;

use serde::Serialize;

use crate::qemu::limits::Deadline;
use crate::qemu::process;

/// What a reader has to know to compare.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    /// The hypervisor below says that there is one.
    pub(crate) virtual_machine: bool,
    pub(crate) kernel: String,
    pub(crate) rustc: String,
    /// Processes that wanted a CPU in the last minute before the run.
    pub(crate) load: f64,
}

impl Machine {
    pub(crate) fn read() -> Self {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = text("/proc/cpuinfo");
        let uname = rustix::system::uname();
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let version = process::run_ok(Command::new(rustc).arg("-V"), Deadline::seconds(60));
        Self {
            cpu: cpu_name(&cpuinfo).unwrap_or("unknown").into(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            virtual_machine: has_flag(&cpuinfo, "hypervisor"),
            kernel: format!(
                "{} {}",
                uname.sysname().to_string_lossy(),
                uname.release().to_string_lossy()
            ),
            rustc: version.map_or_else(|_| "unknown".into(), |out| out.stdout.trim().into()),
            load: load(&text("/proc/loadavg")).unwrap_or_default(),
        }
    }
}

fn cpu_name(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

fn has_flag(cpuinfo: &str, flag: &str) -> bool {
    let line = cpuinfo.lines().find(|line| line.starts_with("flags"));
    line.is_some_and(|line| line.split_ascii_whitespace().any(|word| word == flag))
}

fn load(loadavg: &str) -> Option<f64> {
    loadavg.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu hypervisor\n";
        assert_eq!(cpu_name(cpuinfo), Some("A CPU"));
        assert!(has_flag(cpuinfo, "hypervisor") && !has_flag(cpuinfo, "hyper"));
        assert_eq!(load("0.50 0.76 1.37 2/87 2872"), Some(0.5));
        assert_eq!(load(""), None);
    }
}
