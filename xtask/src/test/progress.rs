//! Progress on standard error: a line that moves on a terminal, plain lines elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What goes on now.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    total: usize,
    at: usize,
}

impl Progress {
    pub(crate) fn new(sections: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {msg} ({elapsed})")
            {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self {
            bar,
            total: sections,
            at: 0,
        }
    }

    /// A section begins.
    pub(crate) fn section(&mut self, name: &str) {
        self.at += 1;
        if let Some(bar) = &self.bar {
            bar.set_prefix(format!("[{}/{}] {name}", self.at, self.total));
            bar.reset_elapsed();
        } else {
            eprintln!("[{}/{}] {name}", self.at, self.total);
        }
    }

    /// A check of the section begins.
    pub(crate) fn check(&self, name: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(name.to_owned());
        }
    }

    /// A check ended: one line that stays.
    pub(crate) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    /// Nothing more moves.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
