//! From a device that was found to a driver that works (VIRTIO 1.4, 3.1.1 and 5.1.5).
//!
//! Whatever fails on the way, the device is told to reset before the transport goes back to the caller.

use super::{
    Control, Driver, FRAME_PIECES, Facts, Options, Parts, RECEIVE_QUEUE, Receiver, ResetOnDrop,
    Storage, TRANSMIT_QUEUE, Transmitter,
};
use crate::buffer::{DmaBuf, Readable, StableBytesMut, Window, Writable};
use crate::device::net::wire::{
    self, ETHERNET_FRAME, ETHERNET_HEADER, F, MIN_MTU, REQUIREMENTS, SUPPORTED, header_len,
};
use crate::dma::Lent;
use crate::features::{Feature, NegotiateError, Wish};
use crate::init::{
    self, InitError, InitFailure, Live, Negotiated, PendingQueue, QueueConfig, QueueError, Quiesced,
};
use crate::platform::Platform;
use crate::transport::{DeviceId, Transport, config};

impl<P: Platform, T: Transport, M: StableBytesMut> Driver<P, T, M> {
    /// Initializes the device, private state on the heap. It has no receive buffers yet:
    /// [`Receiver::refill`].
    ///
    /// # Errors
    /// [`InitError`] says why, and gives the transport back.
    #[cfg(feature = "alloc")]
    pub fn new(platform: P, transport: T, options: Options) -> Result<Self, InitError<T>> {
        Self::start(platform, transport, &options, |negotiated, rx, tx| {
            let receive = negotiated.queue(RECEIVE_QUEUE, rx)?;
            match negotiated.queue(TRANSMIT_QUEUE, tx) {
                Ok(transmit) => Ok((receive, transmit)),
                Err(why) => Err(QueuesFailed(Some(receive), None, why)),
            }
        })
    }

    /// Initializes the device, private state in memory that is lent.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn new_in(
        platform: P,
        transport: T,
        options: Options,
        storage: Storage<M>,
    ) -> Result<Self, InitError<T>> {
        let Storage { receive, transmit } = storage;
        Self::start(platform, transport, &options, |negotiated, rx, tx| {
            let receive = negotiated.queue_in(RECEIVE_QUEUE, rx, receive)?;
            match negotiated.queue_in(TRANSMIT_QUEUE, tx, transmit) {
                Ok(transmit) => Ok((receive, transmit)),
                Err(why) => Err(QueuesFailed(Some(receive), None, why)),
            }
        })
    }

    fn start(
        platform: P,
        transport: T,
        options: &Options,
        queues: impl FnOnce(
            &mut Negotiated<P, T>,
            &QueueConfig,
            &QueueConfig,
        ) -> Result<Queues<P, M>, QueuesFailed<P, M>>,
    ) -> Result<Self, InitError<T>> {
        let legacy = transport.is_legacy();
        let wish = match wish(&transport, options) {
            Ok(wish) => wish,
            Err(why) => return Err(InitError { transport, why }),
        };
        let mut negotiated = init::reset(transport, &platform)?.negotiate(&wish)?;
        let features = negotiated.features();
        let facts = match facts(&mut negotiated, options) {
            Ok(facts) => facts,
            Err(why) => {
                let (transport, _) = negotiated.abort();
                return Err(InitError { transport, why });
            }
        };
        // Framing requirements of the legacy interface (VIRTIO 1.4, 5.1.9.8).
        let cut = legacy && !features.has(Feature::ANY_LAYOUT);
        let header_len = header_len(features);
        let (receive, transmit) = queue_configs(options, header_len);
        let queues = queues(&mut negotiated, &receive, &transmit);
        let queues = match queues.and_then(|queues| long_enough(queues, cut)) {
            Ok(queues) => queues,
            Err(QueuesFailed(receive, transmit, why)) => {
                let (transport, proof) = negotiated.abort();
                discard(receive, proof.as_ref().ok());
                discard(transmit, proof.as_ref().ok());
                let why = why.into();
                return Err(InitError { transport, why });
            }
        };
        let (live, receive, transmit) = finish(negotiated, queues)?;
        let (Ok(receive), Ok(transmit)) = (receive.start(&live), transmit.start(&live)) else {
            // They are of this very device.
            let why = InitFailure::Queue(QueueError::Failed);
            let transport = match live.reset() {
                Ok((transport, _)) => transport,
                Err(leaked) => leaked.live.into_transport(),
            };
            return Err(InitError { transport, why });
        };
        let mtu = facts.mtu;
        let frame = mtu.map_or(0, |mtu| usize::from(mtu).wrapping_add(ETHERNET_HEADER));
        let parts = Parts {
            rx: Receiver::new(receive, header_len, frame.max(ETHERNET_FRAME), cut),
            tx: Transmitter::new(transmit, header_len, mtu, cut),
            control: Control { live, facts },
        };
        Ok(Self {
            parts: Lent::new(parts, ResetOnDrop),
        })
    }
}

/// What the driver asks of the device; refused at once where the device is of another type, or the
/// options require what no driver of this crate does.
fn wish<'a, T: Transport>(transport: &T, options: &Options) -> Result<Wish<'a>, InitFailure> {
    let found = transport.device_id();
    if found != DeviceId::NETWORK {
        return Err(InitFailure::WrongDevice {
            expected: DeviceId::NETWORK.0,
            found: found.0,
        });
    }
    // Those that are accepted for every driver, too.
    let mut implemented = SUPPORTED | Feature::VERSION_1 | Feature::ACCESS_PLATFORM;
    if transport.is_legacy() {
        implemented |= Feature::ANY_LAYOUT;
    }
    if let Some(feature) = (options.require - implemented).iter().next() {
        let why = NegotiateError::Unimplemented { feature };
        return Err(InitFailure::Features(why));
    }
    Ok(Wish {
        want: options.want & SUPPORTED,
        require: options.require,
        refuse: options.refuse,
        requirements: REQUIREMENTS,
        legacy: true,
    })
}

/// Reads what the driver needs to know, and sets the vector for configuration changes.
fn facts<P: Platform, T: Transport>(
    negotiated: &mut Negotiated<P, T>,
    options: &Options,
) -> Result<Facts, InitFailure> {
    let features = negotiated.features();
    if let Some(vector) = options.config_vector {
        negotiated.transport_mut().set_config_vector(Some(vector))?;
    }
    let platform = negotiated.platform().clone();
    let (mac, mtu) = config::consistent(negotiated.transport(), &platform, features, |reader| {
        let mac = if features.has(F::MAC) {
            Some(reader.get(wire::MAC)?)
        } else {
            None
        };
        let mtu = if features.has(F::MTU) {
            Some(reader.get(wire::MTU)?)
        } else {
            None
        };
        Ok((mac, mtu))
    })?;
    match mtu {
        Some(mtu) if mtu < MIN_MTU => Err(InitFailure::Configuration {
            field: "mtu",
            value: mtu.into(),
        }),
        _ => Ok(Facts {
            options: *options,
            mac,
            mtu,
        }),
    }
}

/// What the two queues are to be.
pub(super) fn queue_configs(options: &Options, header_len: usize) -> (QueueConfig, QueueConfig) {
    let receive = QueueConfig::new(options.receive_size).vector(options.receive_vector);
    let transmit = QueueConfig::new(options.transmit_size)
        .vector(options.transmit_vector)
        .cells(header_len as u16, 0)
        // A header without headroom, and a frame in pieces where the platform makes some.
        .indirect(if options.indirect { FRAME_PIECES } else { 0 });
    (receive, transmit)
}

/// The receive queue, and the transmit queue.
type Queues<P, M> = (
    PendingQueue<P, Writable<M>>,
    PendingQueue<P, Readable<Window<M>>>,
);

/// A queue that does not do, and what had been set up before.
struct QueuesFailed<P: Platform, M: StableBytesMut>(
    Option<PendingQueue<P, Writable<M>>>,
    Option<PendingQueue<P, Readable<Window<M>>>>,
    QueueError,
);

impl<P: Platform, M: StableBytesMut> From<QueueError> for QueuesFailed<P, M> {
    fn from(why: QueueError) -> Self {
        Self(None, None, why)
    }
}

/// Refuses queues that no frame goes into: where the header is `cut` off, a frame takes two
/// descriptors.
fn long_enough<P: Platform, M: StableBytesMut>(
    (receive, transmit): Queues<P, M>,
    cut: bool,
) -> Result<Queues<P, M>, QueuesFailed<P, M>> {
    let needed = 1 + u16::from(cut);
    let sizes = [
        (RECEIVE_QUEUE, receive.size()),
        (TRANSMIT_QUEUE, transmit.size()),
    ];
    match sizes.into_iter().find(|&(_, size)| size < needed) {
        None => Ok((receive, transmit)),
        Some((queue, size)) => {
            let why = QueueError::TooShort {
                queue,
                size,
                needed,
            };
            Err(QueuesFailed(Some(receive), Some(transmit), why))
        }
    }
}

/// The device, live, and its queues, which start with it.
fn finish<P: Platform, T: Transport, M: StableBytesMut>(
    negotiated: Negotiated<P, T>,
    (receive, transmit): Queues<P, M>,
) -> Result<Started<P, T, M>, InitError<T>> {
    match negotiated.finish() {
        Ok(live) => Ok((live, receive, transmit)),
        Err(aborted) => {
            let proof = aborted.proof.ok();
            discard(Some(receive), proof.as_ref());
            discard(Some(transmit), proof.as_ref());
            Err(InitError {
                transport: aborted.transport,
                why: aborted.why,
            })
        }
    }
}

type Started<P, T, M> = (
    Live<P, T>,
    PendingQueue<P, Writable<M>>,
    PendingQueue<P, Readable<Window<M>>>,
);

/// Frees a queue of a device that was reset; without proof, it is leaked, and says so.
fn discard<P: Platform, B: DmaBuf>(queue: Option<PendingQueue<P, B>>, proof: Option<&Quiesced>) {
    if let (Some(queue), Some(proof)) = (queue, proof) {
        drop(queue.close(proof));
    }
}
