//! Configuration changes, awaited.

use std::task::Poll;

use vring::adapter::futures::ConfigChanges;

use super::tasks::Task;

#[test]
fn a_change_that_comes_while_nobody_waits_is_not_missed() {
    let mut changes = ConfigChanges::new();
    let handler = changes.notifier();
    handler.wake();
    handler.wake();
    // Several are one.
    Task::new(changes.changed()).ready();
    let mut task = Task::new(changes.changed());
    task.sleeps();
    task.sleeps();
    handler.wake();
    task.wakes_up();
    drop(task);
    Task::new(changes.changed()).sleeps();
}

#[test]
fn a_future_of_a_change_that_is_dropped_or_forgotten_takes_no_change_with_it() {
    let mut changes = ConfigChanges::default();
    let handler = changes.notifier();
    for forget in [false, true] {
        let mut task = Task::new(changes.changed());
        task.sleeps();
        handler.wake();
        match forget {
            true => task.forget(),
            false => drop(task),
        }
        let mut again = Task::new(changes.changed());
        assert_eq!(again.poll(), Poll::Ready(()));
    }
}
