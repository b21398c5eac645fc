//! The matrix: many short runs, a cell each, in as few machines as there are back ends.
//!
//! The cells of QEMU's own device run on this machine, one after the other; those of vhost all in
//! one outer machine for each architecture, or in one namespace of this one. A cell ends in one of four ways:
//!
//! | result | what it means | exit code |
//! |---|---|---|
//! | `ok` | it ran and every check held | 0 |
//! | `failed` | a check did not hold, or it did not reach its end | 1, 4 for time alone |
//! | `not_offered` | the back end does not have it: a fact of the table | 0 |
//! | `skipped` | something is missing on this machine, and named | 0; 3 if nothing ran |

mod plan;
mod table;

use std::path::Path;
use std::time::Instant;

use self::plan::{BackEnd, Cell};
use self::table::{Outcome, Row, Table};
use super::super::arch::Arch;
use super::super::channel::Frame;
use super::super::cli::{Lanes, QemuArgs, VhostMode};
use super::super::features;
use super::super::job::{Job, Load, Tool};
use super::super::limits::Deadline;
use super::super::outer::Kernel;
use super::super::provision::Provision;
use super::super::report::{Failure, Findings, Report, Skipped};
use super::super::stop::Stop;
use super::super::ui::Ui;
use super::{
    ARTIFACTS, How, Listener, Mode, Phases, Site, broken, build, choose_accel, choose_mode,
    fresh_dir, look_for_guest, merge, provision, show,
};

/// Name of the table.
pub(crate) const MATRIX: &str = "matrix.json";

/// A short check: small rings wrap many times all the same.
const LOAD: Load = Load {
    pings: 10,
    tcp_bytes: 128 << 10,
    datagrams: 3000,
    burst: 500,
};

/// For queues of a few descriptors, which wrap every few frames and are slow for the same reason.
const SMALL_LOAD: Load = Load {
    datagrams: 1000,
    tcp_bytes: 32 << 10,
    ..LOAD
};

/// Up to this size it is [`SMALL_LOAD`].
const SMALL: u16 = 16;

/// Where a run's findings have the command line of its QEMU.
const COMMAND: &str = "qemu_command";

/// How long a guest may take to boot, nested and on a busy machine.
const BOOT_SECONDS: u64 = 180;

/// How long one cell may take, nested and on a busy machine.
const CELL_SECONDS: u64 = 400;

/// Runs the table. What failed and what was skipped is in the report too.
pub(super) fn run(
    args: &QemuArgs,
    out: &Path,
    ui: &Ui,
    report: &mut Report,
    phases: &mut Phases<'_>,
) -> Result<(), Stop> {
    let chosen =
        |cell: &Cell| args.cell.is_empty() || args.cell.iter().any(|part| cell.name.contains(part));
    let cells: Vec<Cell> = plan::cells().into_iter().filter(chosen).collect();
    if cells.is_empty() {
        let names = plan::cells().into_iter().map(|cell| cell.name);
        let names = names.collect::<Vec<_>>().join(", ");
        return Err(Stop::Usage(format!(
            "--cell: no cell is called so; there are: {names}"
        )));
    }
    let dir = out.join(ARTIFACTS);
    fresh_dir(&dir)?;
    let path = out.join(MATRIX);
    let mut table = Table::new(&cells, args.format, ui);
    table.write(&path)?;
    let result = fill(args, out, &dir, ui, report, phases, &cells, &mut table);
    table.end(report);
    table.write(&path)?;
    for row in &table.rows {
        row.tell(report);
    }
    // Time that ran out is the verdict only where nothing else is wrong.
    let mut failed = table
        .rows
        .iter()
        .filter(|row| row.result == Outcome::Failed);
    report.findings.timed_out = failed.all(|row| row.timed_out);
    result?;
    if table.count(Outcome::Ok) == 0 && table.count(Outcome::Failed) == 0 {
        let skipped = report.findings.skipped.first().cloned();
        if let Some(Skipped { what, why, fix }) = skipped {
            return Err(Stop::Missing { what, why, fix });
        }
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "called once")]
fn fill(
    args: &QemuArgs,
    out: &Path,
    dir: &Path,
    ui: &Ui,
    report: &mut Report,
    phases: &mut Phases<'_>,
    cells: &[Cell],
    table: &mut Table<'_>,
) -> Result<(), Stop> {
    phases.next(report, "probe");
    look_for_guest(args)?;
    let runs = || cells.iter().filter(|cell| cell.fact.is_none());
    // Why there is no vhost is known at once, and is the reason for each of its cells.
    let vhost = match args.vhost {
        _ if !runs().any(|cell| cell.back_end == BackEnd::Vhost) => None,
        VhostMode::Off => {
            let stop = Stop::missing("vhost", "--vhost off", "leave it out");
            table.skip_all(BackEnd::Vhost, &stop);
            None
        }
        asked => match choose_mode(asked, report) {
            Ok(mode) => Some(mode),
            Err(stop @ Stop::Missing { .. }) if asked == VhostMode::Auto => {
                table.skip_all(BackEnd::Vhost, &stop);
                None
            }
            Err(stop) => return Err(stop),
        },
    };
    // What kept the native mode from being chosen is no skip of the table.
    report.findings.skipped.clear();
    report.findings.vhost.mode = vhost.map_or("off", Mode::name).into();

    phases.next(report, "provide");
    let (provision, providing) = provision(args, ui)?;
    let kernel = provide_kernel(vhost, &provision, table)?;
    let vhost = vhost.filter(|mode| *mode != Mode::Nested || kernel.is_some());
    let mut emulators = Vec::new();
    for arch in Arch::ALL {
        let own = || runs().filter(move |cell| cell.attach.arch == arch);
        if own().count() == 0 {
            continue;
        }
        let provided = newest_qemu(arch, &provision).and_then(|(qemu, too_old)| {
            let outer = match (vhost, arch) {
                (Some(Mode::Nested), Arch::X86_64) => Some(qemu.clone()),
                (Some(Mode::Nested), _) => Some(newest_qemu(Arch::X86_64, &provision)?.0),
                _ => None,
            };
            Ok((arch, qemu, outer, too_old))
        });
        match provided {
            Ok(provided) => emulators.push(provided),
            Err(stop @ Stop::Missing { .. }) if arch != Arch::X86_64 => {
                own().for_each(|cell| table.skip(&cell.name, &stop));
            }
            Err(stop) => return Err(stop),
        }
    }
    drop(providing);

    phases.next(report, "build");
    let mut sites = Vec::new();
    for (arch, qemu, outer, too_old) in &emulators {
        let arch = *arch;
        let guest = build(args, arch, &provision, report)?;
        let accel = choose_accel(
            args,
            arch,
            arch.usual_machine().name(),
            qemu,
            &guest,
            report,
        )?;
        report.accel.get_or_insert_with(|| accel.into());
        for (mode, back_end) in [(Some(Mode::Off), BackEnd::Qemu), (vhost, BackEnd::Vhost)] {
            let Some(mode) = mode else { continue };
            let site = Site {
                mode,
                arch,
                outer: outer.clone().filter(|_| mode == Mode::Nested),
                qemu: qemu.clone(),
                // The steps are the single run's to show; here, they would take time from the
                // cells.
                strace: None,
                kernel: kernel.clone(),
                guest: guest.clone(),
                accel,
            };
            sites.push((site, back_end, too_old));
        }
    }
    // What boots a Linux comes last.
    sites.sort_by_key(|(site, ..)| site.mode != Mode::Off);
    // Fetching and building are not the cells'.
    let limit = Deadline::seconds(args.time_limit());
    for (site, back_end, too_old) in sites {
        let mut jobs = Vec::new();
        let own = |cell: &&Cell| cell.back_end == back_end && cell.attach.arch == site.arch;
        for cell in runs().filter(own) {
            let steer = cell.steer()?;
            match too_old {
                Some((version, stop)) if steer.since > *version => {
                    table.skip(&cell.name, stop);
                }
                _ => jobs.push(job(&site, cell, dir)?),
            }
        }
        if jobs.is_empty() {
            continue;
        }
        // A run that breaks off costs the cells that did not come; those of the other back end
        // are run all the same.
        let mut listener = Listening {
            table,
            report,
            ui,
            current: None,
        };
        let result = site.launch(jobs, out, dir, limit, phases, &mut listener);
        listener.close();
        match result {
            Ok(()) => {}
            Err(Stop::Interrupted) => return Err(Stop::Interrupted),
            Err(stop) => table.break_off(back_end, &stop, report),
        }
    }
    Ok(())
}

/// The newest QEMU that can be had; and, if it is too old for some cells, its version and what to
/// say of them. The cells of other architectures than x86_64 need no newer one than every run.
#[expect(clippy::type_complexity, reason = "taken apart at once")]
fn newest_qemu(
    arch: Arch,
    provision: &Provision<'_>,
) -> Result<(Tool, Option<(Option<(u32, u32)>, Stop)>), Stop> {
    let newest = match arch {
        Arch::X86_64 => Some(features::IN_ORDER_SINCE),
        Arch::Aarch64 | Arch::Riscv64 => None,
    };
    match provision.qemu_since(arch, newest) {
        Ok(qemu) => Ok((qemu, None)),
        Err(stop @ Stop::Missing { .. }) if newest.is_some() => {
            let qemu = provision.qemu_since(arch, None)?;
            let version = Provision::qemu_version(&qemu);
            Ok((qemu, Some((version, stop))))
        }
        Err(stop) => Err(stop),
    }
}

fn provide_kernel(
    vhost: Option<Mode>,
    provision: &Provision<'_>,
    table: &mut Table<'_>,
) -> Result<Option<Kernel>, Stop> {
    if vhost != Some(Mode::Nested) {
        return Ok(None);
    }
    match provision.newest_kernel() {
        Ok(kernel) => Ok(Some(kernel)),
        Err(stop @ Stop::Missing { .. }) => {
            table.skip_all(BackEnd::Vhost, &stop);
            Ok(None)
        }
        Err(stop) => Err(stop),
    }
}

fn job(site: &Site, cell: &Cell, dir: &Path) -> Result<Job, Stop> {
    let mut steer = cell.steer()?;
    cell.attach.check_steer(&mut steer, cell.queue_size)?;
    let how = How {
        steer,
        queue_size: cell.queue_size,
        attach: cell.attach,
        load: if cell.queue_size <= SMALL {
            SMALL_LOAD
        } else {
            LOAD
        },
        batches: 0,
        suite: cell.suite,
        vectors: cell.vectors,
        lanes: Lanes { cpus: 1, pairs: 1 },
    };
    Ok(Job {
        cell: cell.name.clone(),
        brief: true,
        boot_seconds: BOOT_SECONDS,
        total_seconds: CELL_SECONDS,
        ..site.job(&how, &dir.join(&cell.name))
    })
}

/// Fills the rows as the frames come.
struct Listening<'a, 'b> {
    table: &'a mut Table<'b>,
    report: &'a mut Report,
    ui: &'a Ui,
    current: Option<Current>,
}

/// The cell that runs.
struct Current {
    name: String,
    since: Instant,
    findings: Findings,
}

impl Listening<'_, '_> {
    /// The cell that ran is over.
    fn close(&mut self) {
        let Some(Current {
            name,
            since,
            findings,
        }) = self.current.take()
        else {
            return;
        };
        // Each cell tells the same of the machine, but for its command.
        let mut versions = findings.versions.clone();
        versions.remove(COMMAND);
        self.report.findings.versions.extend(versions);
        self.table.close(&name, since.elapsed(), findings);
    }
}

impl Listener for Listening<'_, '_> {
    fn frame(&mut self, frame: Frame) {
        match frame {
            Frame::Cell { name } => {
                self.close();
                self.ui.phase(&name);
                self.current = Some(Current {
                    name,
                    since: Instant::now(),
                    findings: Findings::default(),
                });
            }
            Frame::Findings { findings } => {
                if let Some(current) = &mut self.current {
                    let mut report = Report::unfinished(Vec::new());
                    report.findings = std::mem::take(&mut current.findings);
                    merge(&mut report, *findings);
                    current.findings = report.findings;
                }
            }
            Frame::Broken { message } => {
                let failure = broken(message);
                match &mut self.current {
                    Some(current) => current.findings.failures.push(failure),
                    None => self.report.findings.failures.push(failure),
                }
            }
            // A line for each cell is enough to read; what goes on within is on the bar.
            Frame::Serial { .. } | Frame::Phase { .. } => {}
            frame => show(&frame, self.ui),
        }
    }

    fn is_whole(&self) -> bool {
        // Each cell is judged by its own findings.
        true
    }

    fn report(&mut self) -> &mut Report {
        self.report
    }
}

impl Row {
    /// Puts what the cell found into the report.
    fn tell(&self, report: &mut Report) {
        let found = &mut report.findings;
        for failure in &self.failures {
            found.failures.push(Failure {
                check: format!("cell {}: {}", self.name, failure.check),
                ..failure.clone()
            });
        }
        if self.result == Outcome::Skipped {
            found.skipped.push(Skipped {
                what: format!("cell {}", self.name),
                why: self.reason.clone().unwrap_or_default(),
                fix: self.fix.clone().unwrap_or_default(),
            });
        }
        found.judged = true;
    }
}
