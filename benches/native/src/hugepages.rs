//! Pages of 2 MiB, reserved for as long as the run takes.

use std::fs;

use anyhow::{Context as _, bail};

/// Where the system keeps how many there are.
const COUNT: &str = "/proc/sys/vm/nr_hugepages";
/// Pages that two `dpdk-testpmd` and a region need, with some to spare.
const WANTED: u64 = 400;

/// Sets the count back when dropped.
#[derive(Debug)]
pub(crate) struct HugePages {
    /// `None` when there were enough.
    before: Option<u64>,
}

fn count() -> anyhow::Result<u64> {
    let text = fs::read_to_string(COUNT).with_context(|| format!("cannot read {COUNT}"))?;
    text.trim().parse().context("it is no number")
}

impl HugePages {
    /// Reserves them, where there are not enough.
    ///
    /// # Errors
    /// Without the right to, or the memory.
    pub(crate) fn reserve() -> anyhow::Result<Self> {
        let before = count()?;
        if before >= WANTED {
            return Ok(Self { before: None });
        }
        fs::write(COUNT, WANTED.to_string()).with_context(|| format!("cannot write {COUNT}"))?;
        // From here on it is set back, also when it is too few.
        let pages = Self {
            before: Some(before),
        };
        let got = count()?;
        if got < WANTED {
            bail!("the system has memory for {got} huge pages, not for {WANTED}");
        }
        Ok(pages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let Some(before) = self.before else { return };
        if let Err(error) = fs::write(COUNT, before.to_string()) {
            eprintln!("bench-native: cannot set {COUNT} back to {before}: {error}");
        }
    }
}
