//! Ends the run: `finish` is answered with `bye`.

use alloc::vec::Vec;

use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::{Duration, Instant};

use crate::server::Conversation;

/// What the peer says.
const FINISH: &[u8] = b"finish\n";

/// What the guest answers.
const BYE: &[u8] = b"bye\n";

/// The answer to anything else.
const UNKNOWN: &[u8] = b"unknown\n";

/// How long the answer may take to be acknowledged before the guest ends regardless.
const LINGER: Duration = Duration::from_secs(5);

/// A control connection.
#[derive(Default)]
pub(crate) struct Control {
    line: Vec<u8>,
    answer: Option<Answer>,
}

struct Answer {
    finish: bool,
    until: Instant,
    arrived: bool,
}

impl Conversation for Control {
    fn poll(&mut self, now: Instant, socket: &mut Socket<'_>) -> bool {
        if let Some(answer) = &mut self.answer {
            // The peer has acknowledged all, the end of the stream included.
            let acknowledged = matches!(
                socket.state(),
                State::FinWait2 | State::TimeWait | State::Closed
            );
            answer.arrived |= acknowledged || now >= answer.until;
            return false;
        }
        let mut active = false;
        while socket.can_recv() && !is_whole(&self.line) {
            let taken = socket.recv(|bytes| {
                let wanted = FINISH.len() - self.line.len();
                let bytes = &bytes[..wanted.min(bytes.len())];
                self.line.extend_from_slice(bytes);
                (bytes.len(), ())
            });
            active |= taken.is_ok();
        }
        if is_whole(&self.line) || socket.state() == State::CloseWait {
            let finish = self.line == FINISH;
            // Nothing else was sent, so there is room.
            let _ = socket.send_slice(if finish { BYE } else { UNKNOWN });
            socket.close();
            self.answer = Some(Answer {
                finish,
                until: now + LINGER,
                arrived: false,
            });
            active = true;
        }
        active
    }

    /// The peer has ended the run, and knows that the guest knows.
    fn is_over(&self) -> bool {
        matches!(&self.answer, Some(answer) if answer.finish && answer.arrived)
    }
}

/// Whether the line has ended, or is too long for any that is known.
fn is_whole(line: &[u8]) -> bool {
    line.len() >= FINISH.len() || line.last() == Some(&b'\n')
}
