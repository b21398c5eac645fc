//! A buffer whose first bytes are a descriptor of their own.
//!
//! A legacy device without `VIRTIO_F_ANY_LAYOUT` takes the first descriptor of a chain for the header
//! of its device type, and the others for what follows (VIRTIO 1.4, 2.7.4.3). Where the driver writes
//! the header, it is in the slot's cell. Where the device does, as in front of a received frame, it
//! belongs with what is behind it:
//!
//! ```text
//!   buffer       ├─ at ─┼──────────────────┤      one segment, one piece of memory
//!   descriptors  ├──────┤├─────────────────┤      two, or more where the platform makes more
//! ```
//!
//! What this module does not do: it is no fast way. It takes any buffer that is longer than the cut,
//! and cuts its first segment only.

use super::submit::{Laying, bad_length};
use super::{Core, Reject, Rejected, Ticket};
use crate::buffer::DmaBuf;
use crate::platform::{Direction, Platform};
use crate::ring::core::ChainInfo;

impl<P: Platform, B: DmaBuf> Core<P, B> {
    /// Submits a buffer of one segment in two pieces: its first `at` bytes, which have to be one for
    /// the device, and the rest.
    #[inline(never)] // few devices need it
    pub(super) fn add_cut(&mut self, at: usize, buf: B) -> Result<Ticket, Rejected<B>> {
        if self.ring.counts.chained() != 0 {
            self.ring.unchain();
        }
        if self.ring.free().min(self.longest) < 2 {
            return Err(self.no_room(buf, 2));
        }
        let head = self.ring.counts.head();
        let number = self.ring.counts.next();
        let Some(slot) = self.ring.slots.get_mut(usize::from(head)) else {
            return Err(self.no_room(buf, 2));
        };
        slot.payload.park(buf, number);
        let laying = Laying(self, head);
        let mut chain = ChainInfo {
            tail: head,
            behind: head,
            len: 0,
            pieces: 0,
            table: false,
            writable: 0,
            header: false,
            reply: false,
        };
        let laid = laying.0.lay_cut(at, head, &mut chain);
        if laid.is_err() {
            laying.0.unwind(head, &chain);
        }
        core::mem::forget(laying);
        let Err(why) = laid else {
            return Ok(Ticket::new(head, self.ring.commit(&chain)));
        };
        match self.ring.take_back(head, chain.pieces) {
            Some(buf) => Err(Rejected { buf, why }),
            // As in `add`.
            None => Ok(Ticket::new(head, 0)),
        }
    }

    /// Maps the buffer in slot `head`, and writes the descriptors of the whole chain.
    fn lay_cut(&mut self, at: usize, head: u16, chain: &mut ChainInfo) -> Result<(), Reject> {
        let Some(segment) = self.ring.segment(head, 0) else {
            return Err(Reject::Empty { index: 0 });
        };
        let len = segment.len();
        if len.wrapping_sub(1) >= u32::MAX as usize {
            return Err(bad_length(0, len));
        }
        if at == 0 || at >= len {
            // One of the two pieces has no bytes.
            let index = usize::from(at != 0);
            return Err(Reject::Empty { index });
        }
        if segment.direction() == Direction::Writable {
            chain.writable = len as u32;
        }
        self.put_segment(chain, head, segment.first(at), false)
            .map_err(|(why, _)| why)?;
        if chain.pieces != 1 {
            return Err(Reject::Cut { at });
        }
        self.put_segment(chain, head, segment.advance(at), true)
            .map_err(|(why, _)| why)
    }
}
