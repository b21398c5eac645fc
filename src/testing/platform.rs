//! Three platforms: buffers in place, bounced, and in pieces.

use alloc::sync::Arc;
use core::fmt;
use core::marker::PhantomData;

use super::books::{Core, Counts, Style};
use super::bus::Bus;
use crate::platform::{Access, Wait};

/// A platform that hands buffers to the device in place and never unmaps
/// ([`Platform::DIRECT`](crate::platform::Platform::DIRECT)).
///
/// The device's claim on a buffer ends when a [`QueueDevice`](super::QueueDevice) returns it.
pub type InPlace = Fake<Direct>;

/// A platform that copies: into a bounce buffer when a readable buffer is mapped, back out of one
/// when a writable buffer is unmapped, and then only the bytes that were used.
///
/// A bounce buffer for the device to write is full of [`POISON`](super::POISON) before it writes.
pub type Bouncing = Fake<Bounce>;

/// A platform whose pages are not neighbors: a mapping ends where a page ends, so that a longer
/// buffer needs several. In place, and unmapped.
pub type Discontiguous = Fake<Pages>;

mod sealed {
    pub trait Sealed {}
}

/// How a [`Fake`] maps buffers.
pub trait Kind: sealed::Sealed + 'static {
    /// [`Platform::DIRECT`](crate::platform::Platform::DIRECT).
    const DIRECT: bool;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident: $direct:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $kind {}
        impl sealed::Sealed for $kind {}
        impl Kind for $kind {
            const DIRECT: bool = $direct;
        }
    )*};
}

kinds! {
    /// Marks [`InPlace`].
    Direct: true;
    /// Marks [`Bouncing`].
    Bounce: false;
    /// Marks [`Discontiguous`].
    Pages: false;
}

/// A platform for tests. Clones are the same platform; nothing is global.
///
/// It keeps books, and panics where the driver breaks the contract of
/// [`Platform`](crate::platform::Platform): memory freed or unmapped twice, with another layout,
/// direction or length, or more bytes `used` than were mapped.
pub struct Fake<K> {
    bus: Bus,
    kind: PhantomData<fn(K)>,
}

impl Fake<Direct> {
    /// A platform with no memory in use.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Style::Direct)
    }
}

impl Fake<Bounce> {
    /// A platform with as much bounce space as the heap has.
    #[must_use]
    pub fn new() -> Self {
        Self::with_space(usize::MAX)
    }

    /// A platform with `space` bytes for bounce buffers. Beyond it, mapping fails with
    /// [`DmaError::OutOfMemory`](crate::platform::DmaError::OutOfMemory).
    #[must_use]
    pub fn with_space(space: usize) -> Self {
        Self::with(Style::Bounce { space })
    }
}

impl Fake<Pages> {
    /// A platform with pages of `page` bytes, counted from address 0.
    ///
    /// # Panics
    /// When `page` is not a power of two.
    #[must_use]
    pub fn new(page: usize) -> Self {
        assert!(page.is_power_of_two(), "a page of {page} bytes");
        Self::with(Style::Pages { size: page })
    }
}

impl<K> Fake<K> {
    fn with(style: Style) -> Self {
        Self {
            bus: Bus::new(style),
            kind: PhantomData,
        }
    }

    pub(super) fn core(&self) -> &Core {
        self.bus.core()
    }

    /// The memory as devices reach it.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// What is handed out, and what was.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.core().counts()
    }

    /// Makes one call of `map` fail: the `n`th from now, counted from 1.
    pub fn fail_nth_map(&self, n: u32) {
        self.core().fail_nth(Some(n), None);
    }

    /// Makes one call of `alloc` fail: the `n`th from now, counted from 1.
    pub fn fail_nth_alloc(&self, n: u32) {
        self.core().fail_nth(None, Some(n));
    }

    /// Sets what [`Platform::access`](crate::platform::Platform::access) returns; physical at
    /// first.
    pub fn set_access(&self, access: Access) {
        self.core().set_access(access);
    }

    /// Sets after how many polls a wait gives up; 1000 at first, and 50 under Miri.
    pub fn set_patience(&self, polls: u32) {
        self.core().set_patience(polls);
    }

    /// Has `hook` called at every poll of a wait: where a test without threads runs its device.
    pub fn on_wait(&self, hook: impl Fn(Wait, u32) + Send + Sync + 'static) {
        self.core().set_hook(Arc::new(hook));
    }

    /// Checks that everything was freed and unmapped, and that nothing was reported as leaked.
    ///
    /// # Panics
    /// With the [`Counts`], when something is left.
    pub fn assert_no_leaks(&self) {
        if let Some(leaks) = self.core().leaks() {
            panic!("the driver leaked: {leaks}");
        }
    }
}

impl Default for Fake<Direct> {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Fake<Bounce> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> Clone for Fake<K> {
    fn clone(&self) -> Self {
        Self {
            bus: self.bus.clone(),
            kind: PhantomData,
        }
    }
}

impl<K> fmt::Debug for Fake<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fake").field(&self.bus).finish()
    }
}
