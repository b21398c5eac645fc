//! The roots: the calls of the data path, as a driver makes them, for the buffers that drivers use.

use core::hint::black_box;

use vring::buffer::{RawBuf, Readable, Window, Writable};
use vring::device::net::{Receiver, RefillError, TransmitBurstError, TransmitError, Transmitter};
use vring::virtqueue::{BurstError, Completion, Fault, Rejected, Ticket, Virtqueue};

use crate::bare::Identity;

type Block = &'static mut [u8];
type Queue<B> = Virtqueue<Identity, B>;
type Next<B> = Result<Option<(B, Ticket, u32)>, Fault>;

/// Makes a root of each function: a symbol of that name, which `keep` keeps.
macro_rules! roots {
    ($(
        $(#[$attribute:meta])*
        fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
    )*) => {
        $(
            $(#[$attribute])*
            #[unsafe(no_mangle)]
            fn $name($($arg: $ty),*) $(-> $ret)? $body
        )*

        /// Names every root, so that the linker keeps it and all that it reaches.
        pub(crate) fn keep() {
            $(
                $(#[$attribute])*
                black_box($name as *const ());
            )*
        }
    };
}

roots! {
    fn vring_submit(queue: &mut Queue<RawBuf>, buf: RawBuf) -> Result<Ticket, Rejected<RawBuf>> {
        queue.submit(buf)
    }

    fn vring_submit_readable(
        queue: &mut Queue<Readable<Block>>,
        buf: Block,
    ) -> Result<Ticket, Rejected<Readable<Block>>> {
        queue.submit(Readable(buf))
    }

    fn vring_submit_writable(
        queue: &mut Queue<Writable<Block>>,
        buf: Block,
    ) -> Result<Ticket, Rejected<Writable<Block>>> {
        queue.submit(Writable(buf))
    }

    fn vring_submit_chain(
        queue: &mut Queue<(Readable<Block>, Writable<Block>)>,
        request: Block,
        reply: Block,
    ) -> Result<Ticket, Rejected<(Readable<Block>, Writable<Block>)>> {
        queue.submit((Readable(request), Writable(reply)))
    }

    fn vring_submit_with(
        queue: &mut Queue<Writable<Block>>,
        header: &[u8; 16],
        buf: Block,
    ) -> Result<Ticket, Rejected<Writable<Block>>> {
        queue.submit_with(header, Writable(buf))
    }

    fn vring_submit_burst(
        queue: &mut Queue<RawBuf>,
        bufs: &mut core::array::IntoIter<RawBuf, 32>,
    ) -> Result<usize, BurstError<RawBuf>> {
        queue.submit_burst(bufs)
    }

    fn vring_publish(queue: &mut Queue<RawBuf>) {
        queue.publish();
    }

    fn vring_kick(queue: &mut Queue<RawBuf>) {
        queue.kick();
    }

    fn vring_next(queue: &mut Queue<RawBuf>) -> Next<RawBuf> {
        queue.next_completion().map(taken)
    }

    fn vring_next_chain(
        queue: &mut Queue<(Readable<Block>, Writable<Block>)>,
    ) -> Next<(Readable<Block>, Writable<Block>)> {
        queue.next_completion().map(taken)
    }

    fn vring_reply(queue: &mut Queue<Writable<Block>>) -> Result<Option<u8>, Fault> {
        let done = queue.next_completion()?;
        Ok(done.and_then(|done| done.reply::<u8>()))
    }

    fn vring_drain(queue: &mut Queue<RawBuf>, bytes: &mut u64) -> Result<usize, Fault> {
        queue.drain(|done| *bytes = bytes.wrapping_add(done.written().into()))
    }

    fn vring_arm(queue: &mut Queue<RawBuf>) -> bool {
        queue.arm()
    }

    fn vring_disarm(queue: &mut Queue<RawBuf>) {
        queue.disarm();
    }

    fn vring_net_transmit(
        tx: &mut Transmitter<Identity, Block>,
        frame: Window<Block>,
    ) -> Result<(), TransmitError<Block>> {
        tx.transmit(frame)
    }

    fn vring_net_transmit_burst(
        tx: &mut Transmitter<Identity, Block>,
        frames: &mut core::array::IntoIter<Window<Block>, 32>,
    ) -> Result<usize, TransmitBurstError<Block>> {
        tx.transmit_burst(frames)
    }

    fn vring_net_make_room(
        tx: &mut Transmitter<Identity, Block>,
        bytes: &mut usize,
    ) -> Result<u16, Fault> {
        tx.make_room(32, |block| *bytes = bytes.wrapping_add(block.len()))
    }

    fn vring_net_refill(
        rx: &mut Receiver<Identity, Block>,
        blocks: &mut core::array::IntoIter<Block, 32>,
    ) -> Result<usize, RefillError<Block>> {
        rx.refill(blocks)
    }

    fn vring_net_receive(
        rx: &mut Receiver<Identity, Block>,
    ) -> Result<Option<Window<Block>>, Fault> {
        rx.receive()
    }

    fn vring_net_receive_burst(
        rx: &mut Receiver<Identity, Block>,
        bytes: &mut usize,
    ) -> Result<usize, Fault> {
        rx.receive_burst(|frame| *bytes = bytes.wrapping_add(frame.as_slice().len()))
    }

    #[cfg(feature = "provoke")]
    fn vring_provoke(bytes: &[u8], at: usize) -> u8 {
        bytes[at]
    }
}

fn taken<B>(done: Option<Completion<'_, B>>) -> Option<(B, Ticket, u32)> {
    done.map(|done| {
        let (ticket, written) = (done.ticket(), done.written());
        (done.into_buf(), ticket, written)
    })
}
