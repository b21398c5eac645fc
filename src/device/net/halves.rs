//! The three parts of a driver as values of their own, one for each core that wants one.
//!
//! They share nothing on the data path. A part that is dropped is parked; when the last one goes,
//! the device is reset, and what it confirms is freed. Only then is the transport touched.

use alloc::sync::Arc;
use core::fmt;
use core::ops::{Deref, DerefMut};

use spin::Mutex;

use super::{Control, Driver, Parts, Receiver, ResetOnDrop, Transmitter};
use crate::buffer::StableBytesMut;
use crate::dma::{Home, Lent};
use crate::platform::Platform;
use crate::transport::Transport;

/// One parking place a part. The lock is taken when a part is dropped, and at no other time.
struct Parking<P: Platform, T: Transport, M: StableBytesMut> {
    places: Mutex<Places<P, T, M>>,
}

struct Places<P: Platform, T: Transport, M: StableBytesMut> {
    rx: Option<Receiver<P, M>>,
    tx: Option<Transmitter<P, M>>,
    control: Option<Control<P, T>>,
}

type Shared<P, T, M> = Arc<Parking<P, T, M>>;

impl<P: Platform, T: Transport, M: StableBytesMut> Parking<P, T, M> {
    /// Parks a part by `park`; the last one wakes the driver up again, which is dropped here,
    /// outside of the lock.
    fn park(&self, park: impl FnOnce(&mut Places<P, T, M>)) {
        let whole = {
            let mut places = self.places.lock();
            park(&mut places);
            match (places.rx.take(), places.tx.take(), places.control.take()) {
                (Some(rx), Some(tx), Some(control)) => Some(Parts { rx, tx, control }),
                (rx, tx, control) => {
                    *places = Places { rx, tx, control };
                    None
                }
            }
        };
        if let Some(parts) = whole {
            drop(Lent::new(parts, ResetOnDrop));
        }
    }
}

impl<P: Platform, T: Transport, M: StableBytesMut> Home<Receiver<P, M>> for Shared<P, T, M> {
    fn take_back(self, part: Receiver<P, M>) {
        self.park(|places| places.rx = Some(part));
    }
}

impl<P: Platform, T: Transport, M: StableBytesMut> Home<Transmitter<P, M>> for Shared<P, T, M> {
    fn take_back(self, part: Transmitter<P, M>) {
        self.park(|places| places.tx = Some(part));
    }
}

impl<P: Platform, T: Transport, M: StableBytesMut> Home<Control<P, T>> for Shared<P, T, M> {
    fn take_back(self, part: Control<P, T>) {
        self.park(|places| places.control = Some(part));
    }
}

macro_rules! half {
    ($(#[$doc:meta])* $name:ident => $part:ty) => {
        $(#[$doc])*
        pub struct $name<P: Platform, T: Transport, M: StableBytesMut>(
            Lent<$part, Shared<P, T, M>>,
        );

        impl<P: Platform, T: Transport, M: StableBytesMut> Deref for $name<P, T, M> {
            type Target = $part;

            #[inline]
            fn deref(&self) -> &$part {
                &self.0
            }
        }

        impl<P: Platform, T: Transport, M: StableBytesMut> DerefMut for $name<P, T, M> {
            #[inline]
            fn deref_mut(&mut self) -> &mut $part {
                &mut self.0
            }
        }

        impl<P: Platform, T: Transport, M: StableBytesMut> fmt::Debug for $name<P, T, M> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                (**self).fmt(f)
            }
        }
    };
}

half! {
    /// The receiving part of a driver that was split.
    ReceiverHalf => Receiver<P, M>
}
half! {
    /// The transmitting part of a driver that was split.
    TransmitterHalf => Transmitter<P, M>
}
half! {
    /// Facts, interrupts and the reset of a driver that was split.
    ControlHalf => Control<P, T>
}

impl<P: Platform, T: Transport, M: StableBytesMut> Driver<P, T, M> {
    /// Splits the driver into parts that may go to different cores.
    /// [`join`](Self::join) undoes it.
    #[must_use]
    pub fn split(
        self,
    ) -> (
        ReceiverHalf<P, T, M>,
        TransmitterHalf<P, T, M>,
        ControlHalf<P, T, M>,
    ) {
        let (Parts { rx, tx, control }, ResetOnDrop) = self.parts.into_parts();
        let places = Mutex::new(Places {
            rx: None,
            tx: None,
            control: None,
        });
        let shared = Arc::new(Parking { places });
        (
            ReceiverHalf(Lent::new(rx, shared.clone())),
            TransmitterHalf(Lent::new(tx, shared.clone())),
            ControlHalf(Lent::new(control, shared)),
        )
    }

    /// Puts three parts of one driver together again.
    ///
    /// # Errors
    /// The parts, when they are not of one driver.
    #[allow(clippy::type_complexity)] // the parts, as they came
    pub fn join(
        rx: ReceiverHalf<P, T, M>,
        tx: TransmitterHalf<P, T, M>,
        control: ControlHalf<P, T, M>,
    ) -> Result<
        Self,
        (
            ReceiverHalf<P, T, M>,
            TransmitterHalf<P, T, M>,
            ControlHalf<P, T, M>,
        ),
    > {
        let home = rx.0.home();
        if !Arc::ptr_eq(home, tx.0.home()) || !Arc::ptr_eq(home, control.0.home()) {
            return Err((rx, tx, control));
        }
        let parts = Parts {
            rx: rx.0.into_parts().0,
            tx: tx.0.into_parts().0,
            control: control.0.into_parts().0,
        };
        Ok(Self {
            parts: Lent::new(parts, ResetOnDrop),
        })
    }
}
