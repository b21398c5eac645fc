//! Reads what `strace -ttt -e trace=ioctl,eventfd2` wrote, with `-f` or without.

/// One system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// 0 in a log of a single thread, which does not name it.
    pub(crate) thread: u32,
    /// `eventfd2`, or the request of an `ioctl`, for example `VHOST_SET_VRING_NUM`.
    pub(crate) name: String,
    pub(crate) result: i64,
    /// As strace wrote it, without thread and time.
    pub(crate) text: String,
}

/// The calls that returned, in order. A call that strace shows in two halves counts where it ends.
pub(crate) fn parse(log: &str) -> Vec<Call> {
    let mut halves: Vec<(u32, String)> = Vec::new();
    let mut calls = Vec::new();
    for line in log.lines() {
        let Some((first, rest)) = line.split_once(char::is_whitespace) else {
            continue;
        };
        let (thread, rest) = match first.parse() {
            Ok(thread) => (thread, rest.trim_start()),
            Err(_) => (0, line),
        };
        let Some((_time, text)) = rest.split_once(' ') else {
            continue;
        };
        if let Some(begun) = text.strip_suffix(" <unfinished ...>") {
            halves.push((thread, begun.into()));
            continue;
        }
        let whole = if let Some((_, end)) = text.split_once(" resumed>") {
            let Some(at) = halves.iter().position(|(who, _)| *who == thread) else {
                continue;
            };
            format!("{}{end}", halves.remove(at).1)
        } else {
            text.to_owned()
        };
        calls.extend(call(thread, &whole));
    }
    calls
}

fn call(thread: u32, text: &str) -> Option<Call> {
    let (function, rest) = text.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let result: i64 = result.split_ascii_whitespace().next()?.parse().ok()?;
    let name = match function {
        "ioctl" => arguments.split([',', ')']).nth(1)?.trim(),
        other => other,
    };
    Some(Call {
        thread,
        name: name.into(),
        result,
        text: text.trim_end().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_one_thread_is_read() {
        let calls = parse("1795344684.970473 eventfd2(0, EFD_CLOEXEC|EFD_NONBLOCK) = 16\n");
        let names: Vec<_> = calls
            .iter()
            .map(|call| (call.thread, call.result))
            .collect();
        assert_eq!(names, [(0, 16)]);
    }

    #[test]
    fn calls_are_read() {
        let log = "\
86    1795344684.970473 ioctl(3, VHOST_SET_VRING_CALL, 0x7f28a4bf7ad0) = 0
96    1795344684.971335 eventfd2(0, EFD_CLOEXEC|EFD_NONBLOCK) = 20
96    1795344684.971400 ioctl(12, TUNSETIFF <unfinished ...>
86    1795344684.971500 ioctl(3, VHOST_SET_OWNER, 0) = -1 EBUSY (Device or resource busy)
96    1795344684.971600 <... ioctl resumed>, 0x7f) = 0
96    1795344684.971700 +++ exited with 0 +++
nonsense
";
        let calls = parse(log);
        let seen: Vec<_> = calls
            .iter()
            .map(|call| (call.thread, call.name.as_str(), call.result))
            .collect();
        assert_eq!(
            seen,
            [
                (86, "VHOST_SET_VRING_CALL", 0),
                (96, "eventfd2", 20),
                (86, "VHOST_SET_OWNER", -1),
                (96, "TUNSETIFF", 0),
            ]
        );
        assert_eq!(calls[3].text, "ioctl(12, TUNSETIFF, 0x7f) = 0");
    }
}
