//! What each group needs, and how it is run.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::cli::{BenchArgs, Group};
use super::goals::Goals;
use super::prepare::{self, Lack};
use super::report::{Demand, GroupReport};
use super::sample::{self, Key, Line, What};
use super::table::{Case, Table};
use super::{guest, instructions, plot, ringtest, size};
use crate::qemu::process;
use crate::qemu::provision::rust::TARGET as BARE_METAL;
use crate::qemu::stop::Stop;
use crate::test::context::Context;
use crate::test::needs::{Machine, Need};
use crate::test::progress::Progress;
use crate::test::report::Status;
use crate::test::run::{Cmd, Run};
use crate::test::section::Skip;

/// What a program may take beyond its share: it ends the sample that it is taking.
const GRACE_SECONDS: u64 = 20;
/// What preparations of a group may take: builds, downloads.
const PREPARE_SECONDS: u64 = 1200;
/// Lines of a failed group's log that are shown, and failures of a group.
const TAIL: usize = 25;
const FAILURES: usize = 8;

/// A group, and what of its needs the machine cannot have.
pub(crate) struct Plan {
    group: Group,
    lack: Option<Skip>,
}

impl Plan {
    /// Looks for what the group needs, and provides it where that is agreed to.
    pub(crate) fn new(group: Group, machine: &mut Machine<'_>) -> Result<Self, Stop> {
        let lack = machine.meet(&needs(group))?;
        Ok(Self { group, lack })
    }

    pub(crate) fn is_instructions(&self) -> bool {
        self.group == Group::Instructions
    }

    pub(crate) fn lack(&self) -> Option<Skip> {
        self.lack.clone()
    }
}

/// What a group needs of the machine.
pub(crate) fn needs(group: Group) -> Vec<Need> {
    let program = |program, package| Need::Program { program, package };
    match group {
        Group::Instructions => vec![program("valgrind", "valgrind")],
        Group::NativeNet => vec![program("dpdk-testpmd", "dpdk-dev")],
        Group::NativeBlock => vec![program("qemu-storage-daemon", "qemu-utils")],
        Group::Size => vec![Need::Target(BARE_METAL)],
        // The guest's command sees to its own needs.
        Group::OneThread | Group::TwoCores | Group::Guest => Vec::new(),
    }
}

/// What the run of a group finds beside figures.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) failures: Vec<String>,
    pub(crate) skips: Vec<Skip>,
    pub(crate) notes: Vec<String>,
}

impl Found {
    pub(crate) fn skip(&mut self, reason: impl Into<String>, fix: impl Into<String>) {
        self.skips.push(Skip {
            reason: reason.into(),
            fix: fix.into(),
        });
    }
}

/// A run.
pub(crate) struct Bench<'a> {
    args: &'a BenchArgs,
    goals: &'a Goals,
    context: &'a Context,
    table: Table,
    progress: Progress,
    /// Where the programs are, once they were built, or why there are none.
    programs: Option<Result<PathBuf, Lack>>,
    /// Why Linux's ring is not there.
    no_ringtest: Option<String>,
    threads_ran: bool,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(
        args: &'a BenchArgs,
        goals: &'a Goals,
        context: &'a Context,
        progress: Progress,
    ) -> Self {
        Self {
            args,
            goals,
            context,
            table: Table::default(),
            progress,
            programs: None,
            no_ringtest: None,
            threads_ran: false,
        }
    }

    /// Something begins that is counted.
    pub(crate) fn begin(&mut self, name: &str) {
        self.progress.section(name);
    }

    /// Nothing more comes.
    pub(crate) fn end(&self) {
        self.progress.end();
    }

    pub(crate) fn cases(&self, group: Group) -> Vec<Case> {
        self.table.cases(group)
    }

    /// Runs a group.
    pub(crate) fn group(&mut self, plan: &Plan) -> Result<GroupReport, Stop> {
        let (group, start) = (plan.group, Instant::now());
        self.begin(group.name());
        let log = self.context.out.join(format!("{group}.log"));
        let seconds = PREPARE_SECONDS + group.seconds(self.args.quick);
        let mut run = Run::new(self.context, &log, seconds)?;
        let mut found = Found::default();
        found.skips.extend(plan.lack.clone());
        let ended = match plan.lack {
            Some(_) => Ok(()),
            None => self.measure(group, &mut run, &mut found),
        };
        let mut report = GroupReport {
            name: group,
            status: match &ended {
                Ok(()) if found.failures.is_empty() => Status::Passed,
                Ok(()) => Status::Failed,
                Err(stop) => status_of(stop),
            },
            duration_s: start.elapsed().as_secs_f64(),
            failures: found.failures,
            skips: found.skips,
            notes: found.notes,
            cases: self.table.cases(group),
            plot: None,
            log: log.clone(),
        };
        let more = report.failures.len().saturating_sub(FAILURES);
        if more > 0 {
            report.failures.truncate(FAILURES);
            report
                .failures
                .push(format!("and {more} more: see the log"));
        }
        report
            .failures
            .extend(ended.err().map(|stop| stop.to_string()));
        report.settle(&Demand {
            required: self.args.requires(group),
            quick: self.args.quick,
            excused: &|case, contender| self.goals.excused(case, contender),
        });
        self.plot(&mut report);
        let (status, figures) = (report.status.shown(), report.figures());
        let line = format!(
            "  {group} ... {status} ({figures} figures, {:.1} s)",
            report.duration_s
        );
        self.progress.line(&line);
        if matches!(report.status, Status::Failed | Status::TimeLimit) {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            self.progress.line(&process::tail(&text, TAIL));
        }
        Ok(report)
    }

    fn plot(&self, report: &mut GroupReport) {
        let name = format!("{}.svg", report.name);
        let path = self.context.out.join(&name);
        if self.args.no_plots {
            return;
        }
        match plot::draw(report, &path) {
            Ok(drawn) => report.plot = drawn.then_some(name),
            Err(error) => report.notes.push(format!("There is no plot: {error:#}.")),
        }
    }

    fn measure(&mut self, group: Group, run: &mut Run<'_>, found: &mut Found) -> Result<(), Stop> {
        match group {
            Group::Guest => return guest::measure(self, run, found),
            Group::Size => return size::measure(self, run, found),
            _ => {}
        }
        let Some(dir) = self.programs(run, found)? else {
            return Ok(());
        };
        match group {
            Group::Instructions => instructions::measure(self, run, &dir.join("rounds"), found),
            Group::OneThread | Group::TwoCores => self.threads(run, &dir.join("threads"), found),
            _ => {
                // Contenders for the disk differ by less than its samples do: it takes many.
                let rounds = if group == Group::NativeBlock {
                    "8"
                } else {
                    "4"
                };
                let args = ["--only", group.name(), "--rounds", rounds];
                let cmd = Cmd::new(dir.join("bench-native"), args);
                self.program(&[group], cmd, run, found)
            }
        }
    }

    /// One program measures both groups, in turn; whoever comes second has its figures already.
    fn threads(&mut self, run: &mut Run<'_>, path: &Path, found: &mut Found) -> Result<(), Stop> {
        if std::mem::replace(&mut self.threads_ran, true) {
            let note = "Measured in turn with the group before, in its time.";
            found.notes.push(note.into());
            return Ok(());
        }
        let mut groups = self.args.groups();
        groups.retain(|group| matches!(group, Group::OneThread | Group::TwoCores));
        let mut cmd = Cmd::new(path, [""; 0]);
        if groups.contains(&Group::TwoCores) && !self.args.quick {
            match ringtest::provide(self, run)? {
                Ok(dir) => cmd = cmd.args(["--ringtest".as_ref(), dir.as_os_str()]),
                Err(why) => self.no_ringtest = Some(why),
            }
        }
        self.program(&groups, cmd, run, found)
    }

    /// Where the programs are; they are built for the first group that asks.
    fn programs(&mut self, run: &mut Run<'_>, found: &mut Found) -> Result<Option<PathBuf>, Stop> {
        if self.programs.is_none() {
            self.progress.check("building the programs");
            self.programs = Some(prepare::programs(run)?);
        }
        match &self.programs {
            Some(Ok(dir)) => return Ok(Some(dir.clone())),
            Some(Err(Lack::Skip(skip))) => found.skips.push(skip.clone()),
            Some(Err(Lack::Failed(why))) => found.failures.push(why.clone()),
            None => {}
        }
        Ok(None)
    }

    /// Whether the run is a short one.
    pub(crate) fn is_quick(&self) -> bool {
        self.args.quick
    }

    /// Whether missing system packages may be installed without asking.
    pub(crate) fn may_install(&self) -> bool {
        self.args.yes
    }

    /// What goes on now.
    pub(crate) fn doing(&self, what: &str) {
        self.progress.check(what);
    }

    /// Takes a figure in.
    pub(crate) fn add(&mut self, key: Key, what: What, found: &mut Found) {
        if let Err(why) = self.table.add(key, what) {
            found.failures.push(why);
        }
    }

    /// Runs a program that takes the samples of these groups in their share of the time, and takes
    /// them in.
    fn program(
        &mut self,
        groups: &[Group],
        cmd: Cmd,
        run: &mut Run<'_>,
        found: &mut Found,
    ) -> Result<(), Stop> {
        let quick = self.args.quick;
        let seconds: u64 = groups.iter().map(|group| group.seconds(quick)).sum();
        let cmd = cmd.args(["--seconds", &seconds.to_string()]);
        let cmd = cmd.args(quick.then_some("--quick"));
        let begun = Instant::now();
        let status = run.follow(&cmd, seconds + GRACE_SECONDS, &mut |line| {
            self.line(groups, line, found);
            let samples: usize = groups.iter().map(|group| self.table.samples(*group)).sum();
            let at = begun.elapsed().as_secs();
            self.progress
                .check(&format!("{samples} samples, {at} of {seconds} s"));
        })?;
        if !status.success() {
            let failure = format!("`{}` ended with {status}", cmd.shown());
            found.failures.push(failure);
        }
        Ok(())
    }

    /// Takes in what a program says. What it says of other groups, nobody asked for.
    fn line(&mut self, groups: &[Group], line: &str, found: &mut Found) {
        match sample::parse(line) {
            Some(Ok(Line::Figure(key, mut what))) if groups.contains(&key.group) => {
                if let (What::Skipped(_), ringtest::NAME) = (&what, key.contender.as_str()) {
                    let why = self.no_ringtest.clone();
                    what =
                        What::Skipped(why.unwrap_or_else(|| "a short run fetches no Linux".into()));
                }
                self.add(key, what, found);
            }
            Some(Ok(Line::Note(group, note)))
                if groups.contains(&group) && !found.notes.contains(&note) =>
            {
                found.notes.push(note);
            }
            None | Some(Ok(_)) => {}
            Some(Err(why)) => {
                let failure = format!("a line cannot be read: {why}");
                found.failures.push(failure);
            }
        }
    }
}

/// What becomes of a group that ends early.
pub(crate) fn status_of(stop: &Stop) -> Status {
    match stop {
        Stop::TimeLimit { .. } => Status::TimeLimit,
        Stop::Interrupted => Status::Interrupted,
        Stop::Missing { .. } => Status::Missing,
        Stop::Usage(_) | Stop::Broken(_) => Status::Failed,
    }
}
