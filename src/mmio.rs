//! The only register loads and stores.
//!
//! ```text
//!   Registers ──▶ Block<T> ──(a field's offset)──▶ Register<u16> ──▶ RegisterAccess ──▶ one
//!   a range, checked once                          a place           Native, or yours   access
//! ```
//!
//! A device register is not memory: each access has a width that the specification fixes, happens
//! exactly once, and is ordered against ring memory. So the last step, the load or the store, is
//! written here and nowhere else.
//!
//! - **Width.** 8, 16 and 32 bits. A 64-bit register is two 32-bit registers, low half first:
//!   devices are not obliged to accept more (VIRTIO 1.4, 4.1.3.1).
//! - **Form.** On aarch64 a volatile access may compile to a form with write-back of the address,
//!   which a hypervisor cannot emulate; inline assembly names the plain form there.
//! - **Order.** A store comes after every earlier store to memory, and a load before every later
//!   access of memory, on the bus as well as in the CPU: a doorbell must not overtake the ring it
//!   announces, and a ring must not be read before the register that announced it.
//! - **Endianness.** Registers are little-endian; values here are the CPU's.
//!
//! Invariants, by number, for the blocks below:
//!
//! 1. A [`Registers`] was promised at [`Registers::new`] to be mapped device registers (or memory
//!    that stands for them), reached by nobody else, for as long as anything made from it is used;
//!    or to be names, of which none comes to [`Native`]. So there may be nothing at an address, and
//!    until the access itself addresses are only counted with.
//! 2. A [`Register`] or [`Block`] lies wholly inside a `Registers`, which does not wrap, and is
//!    aligned to its type.
//! 3. Every bit pattern is a value of its type, so whatever the device answers is valid.

use core::fmt;
use core::ptr::NonNull;

use crate::transport::{Doorbell, Isr};

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
mod ports;
#[cfg(test)]
mod tests;

/// A range of device registers that the kernel has mapped. The one promise that the PCI and MMIO
/// transports ask for.
#[derive(Debug)]
pub struct Registers {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: device registers belong to no core; who may use them is the owner's business.
unsafe impl Send for Registers {}
// SAFETY: shared access hands out places, which any core may load from and store to.
unsafe impl Sync for Registers {}

impl Registers {
    /// The `len` bytes from `base` on are device registers.
    ///
    /// # Safety
    /// 1. They are mapped for reading and writing, uncached ("device memory") on real hardware, and
    ///    stay so while the transport made from them, or a [`Doorbell`] or [`Isr`] that it handed
    ///    out, may be used. For a kernel that never unmaps a device's BARs: for ever. Or the addresses
    ///    are names that a [`RegisterAccess`] of the kernel's translates: then this value goes to a
    ///    transport that has that access, and never to [`Native`] or where an
    ///    [`Area`](crate::transport::pci::Area) is asked for.
    /// 2. Nobody else uses these registers meanwhile: no second transport for the device, and no
    ///    [`Register`] that was taken out of this value before a transport got it.
    /// 3. They are no memory that Rust code uses. A BAR holds what firmware *or the host* wrote
    ///    there: a kernel that does not trust its host refuses to map addresses that are RAM.
    /// 4. They go to whom they are meant for. A transport that asks for the registers at a physical
    ///    address gets those; so do [`Ecam`](crate::transport::pci::Ecam) and
    ///    [`MmioTransport`](crate::transport::mmio::MmioTransport), which ask for nothing. Of
    ///    configuration space, whoever makes them answers for what it is used for, as the makers of
    ///    every [`ConfigAccess`](crate::transport::pci::ConfigAccess) do.
    #[must_use]
    pub const unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len }
    }

    /// Bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty)] // an empty range has no use that could ask
    pub const fn len(&self) -> usize {
        self.len
    }

    /// The register at `offset`; `None` when it is not wholly inside, or not aligned.
    pub fn register<T: Word>(&self, offset: usize) -> Option<Register<T>> {
        self.place(offset).map(Register)
    }

    /// The block of registers at the start; `None` when the range is too short, or not aligned.
    pub(crate) fn block<T: zerocopy::FromBytes>(&self) -> Option<Block<T>> {
        self.place(0).map(Block)
    }

    /// Whether the first register is at a multiple of `alignment`, a power of two.
    pub(crate) fn is_aligned_to(&self, alignment: usize) -> bool {
        self.base.addr().get() & (alignment - 1) == 0
    }

    fn place<T>(&self, offset: usize) -> Option<NonNull<T>> {
        if offset.checked_add(size_of::<T>())? > self.len {
            return None;
        }
        // The last byte of it is no address if it wraps.
        let last = offset.checked_add(size_of::<T>().saturating_sub(1))?;
        self.base.addr().get().checked_add(last)?;
        // Wrapping, as behind an access that translates addresses nothing need be mapped here.
        let place = NonNull::new(self.base.as_ptr().wrapping_add(offset))?.cast::<T>();
        place.is_aligned().then_some(place)
    }
}

/// A structure of registers at a checked place.
pub(crate) struct Block<T>(NonNull<T>);

// SAFETY: as for `Registers`.
unsafe impl<T> Send for Block<T> {}
// SAFETY: as for `Registers`.
unsafe impl<T> Sync for Block<T> {}

impl<T> Block<T> {
    /// For [`field!`], which names the field.
    ///
    /// # Safety
    /// There is a field of that type at that offset.
    #[inline]
    pub(crate) unsafe fn field<F>(&self, offset: usize, _: fn(&T) -> &F) -> Register<F> {
        let place = self.0.as_ptr().wrapping_byte_add(offset).cast::<F>();
        // SAFETY: inside of the block by the caller's promise, so it does not wrap by invariant 2.
        Register(unsafe { NonNull::new_unchecked(place) })
    }
}

/// The place of a field of a [`Block`]. Nothing need be mapped there: see [`Registers::new`].
macro_rules! field {
    ($block:expr, $structure:ty, $field:ident) => {{
        let block: &$crate::mmio::Block<$structure> = &$block;
        let offset = core::mem::offset_of!($structure, $field);
        // SAFETY: the compiler's offset and type of the field.
        unsafe { block.field(offset, |it| &it.$field) }
    }};
}
pub(crate) use field;

/// The place of one device register of type `u8`, `u16` or `u32`.
///
/// It comes out of a [`Registers`], so a [`RegisterAccess`] may rely on it being mapped and aligned, or
/// being a name that its own kernel made.
pub struct Register<T>(NonNull<T>);

// SAFETY: a place; an access is a single load or store, which any core may do at any time.
unsafe impl<T> Send for Register<T> {}
// SAFETY: as for `Send`.
unsafe impl<T> Sync for Register<T> {}

impl<T> Clone for Register<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Register<T> {}

impl<T> fmt::Debug for Register<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "u{} at {:p}", size_of::<T>() * 8, self.0)
    }
}

impl<T> Register<T> {
    /// The address that the transport's owner mapped it at: what a hypercall translates.
    #[inline]
    #[must_use]
    pub fn address(self) -> usize {
        self.0.addr().get()
    }
}

impl<T: Word> Register<T> {
    /// Loads, before every later access of memory.
    #[inline]
    pub(crate) fn load(self) -> T {
        // SAFETY: mapped, as `Native` is the one to ask, and aligned, by invariants 1 and 2.
        let value = unsafe { T::load(self.0) };
        after_load();
        value
    }

    /// Stores, after every earlier store to memory.
    #[inline]
    pub(crate) fn store(self, value: T) {
        before_store();
        // SAFETY: mapped, as `Native` is the one to ask, and aligned, by invariants 1 and 2.
        unsafe { T::store(self.0, value) }
    }
}

/// How a register is reached.
///
/// [`Native`] loads and stores, which is right wherever the hypervisor traps or maps the access.
/// A confidential guest may not rely on traps: it implements this trait with a hypercall.
/// Values are in the CPU's byte order; the register is little-endian.
///
/// # Safety
/// Memory is lent to a device by what is written to its registers, and freed on what is read from
/// them: a status of 0 is the proof that a reset is done. An implementation, and every clone of it,
/// promises:
///
/// 1. A call is one access of the device's register at that place, of exactly that width, in the
///    order of the calls. A write stores that value, and a read returns what the device answers
///    there and then: nothing is made up, kept from before, left out or repeated.
/// 2. A write comes after every earlier store to memory, and a read before every later access of
///    memory, for the device as well as for other CPUs.
/// 3. A doorbell or an interrupt handle that it gives writes to and reads from the registers that
///    it was made for, and no others.
///
/// It does not promise that the device tells the truth.
pub unsafe trait RegisterAccess: Clone {
    /// Reads 8 bits.
    fn read8(&self, at: Register<u8>) -> u8;
    /// Reads 16 bits in one access.
    fn read16(&self, at: Register<u16>) -> u16;
    /// Reads 32 bits in one access.
    fn read32(&self, at: Register<u32>) -> u32;
    /// Writes 8 bits.
    fn write8(&self, at: Register<u8>, value: u8);
    /// Writes 16 bits in one access.
    fn write16(&self, at: Register<u16>, value: u16);
    /// Writes 32 bits in one access.
    fn write32(&self, at: Register<u32>, value: u32);
    /// A doorbell that writes `value` to `at` each time: see [`Doorbell::function`].
    fn doorbell(&self, at: Register<u16>, value: u16) -> Doorbell;
    /// A doorbell that writes `value` and the queue's position to `at` each time: see
    /// [`Doorbell::with_data`].
    fn doorbell_with_data(&self, at: Register<u32>, value: u16) -> Doorbell;
    /// A doorbell that writes `value` to `at` each time, in one access of 32 bits: over MMIO. See
    /// [`Doorbell::function`].
    fn doorbell32(&self, at: Register<u32>, value: u16) -> Doorbell;
    /// A handle that reads `at` each time: see [`Isr::function`].
    fn isr(&self, at: Register<u8>) -> Isr;
    /// A handle that reads `status` each time and writes to `ack` what it saw: over MMIO. See
    /// [`Isr::functions`].
    fn isr_pair(&self, status: Register<u32>, ack: Register<u32>) -> Isr;
}

/// Loads and stores.
#[derive(Clone, Copy, Debug, Default)]
pub struct Native;

// SAFETY: 1. Each is one volatile load or store (on aarch64 one instruction) of its width. 2. The
// fences of `Register` order it. 3. The handles hold the places that they were given.
unsafe impl RegisterAccess for Native {
    #[inline]
    fn read8(&self, at: Register<u8>) -> u8 {
        at.load()
    }
    #[inline]
    fn read16(&self, at: Register<u16>) -> u16 {
        at.load()
    }
    #[inline]
    fn read32(&self, at: Register<u32>) -> u32 {
        at.load()
    }
    #[inline]
    fn write8(&self, at: Register<u8>, value: u8) {
        at.store(value);
    }
    #[inline]
    fn write16(&self, at: Register<u16>, value: u16) {
        at.store(value);
    }
    #[inline]
    fn write32(&self, at: Register<u32>, value: u32) {
        at.store(value);
    }
    fn doorbell(&self, at: Register<u16>, value: u16) -> Doorbell {
        Doorbell::register(at, value)
    }
    fn doorbell_with_data(&self, at: Register<u32>, value: u16) -> Doorbell {
        Doorbell::register_with_data(at, value)
    }
    fn doorbell32(&self, at: Register<u32>, value: u16) -> Doorbell {
        Doorbell::register32(at, value)
    }
    fn isr(&self, at: Register<u8>) -> Isr {
        Isr::register(at)
    }
    fn isr_pair(&self, status: Register<u32>, ack: Register<u32>) -> Isr {
        Isr::pair(status, ack)
    }
}

/// A width that registers have.
pub trait Word: Copy {
    /// # Safety
    /// `at` is a mapped register, aligned.
    unsafe fn load(at: NonNull<Self>) -> Self;
    /// # Safety
    /// `at` is a mapped register, aligned.
    unsafe fn store(at: NonNull<Self>, value: Self);
}

macro_rules! word {
    ($word:ty, $load:literal, $store:literal) => {
        impl Word for $word {
            #[inline(always)]
            unsafe fn load(at: NonNull<Self>) -> Self {
                #[cfg(all(target_arch = "aarch64", not(miri)))]
                let value = {
                    let value: $word;
                    // SAFETY: one load of a place that the caller vouches for.
                    unsafe {
                        core::arch::asm!($load, value = out(reg) value, at = in(reg) at.as_ptr(),
                            options(nostack, preserves_flags));
                    }
                    value
                };
                #[cfg(not(all(target_arch = "aarch64", not(miri))))]
                // SAFETY: the caller vouches for the place.
                let value = unsafe { volatile::VolatilePtr::new(at) }.read();
                Self::from_le(value)
            }

            #[inline(always)]
            unsafe fn store(at: NonNull<Self>, value: Self) {
                let value = value.to_le();
                #[cfg(all(target_arch = "aarch64", not(miri)))]
                // SAFETY: one store to a place that the caller vouches for.
                unsafe {
                    core::arch::asm!($store, value = in(reg) value, at = in(reg) at.as_ptr(),
                        options(nostack, preserves_flags));
                }
                #[cfg(not(all(target_arch = "aarch64", not(miri))))]
                // SAFETY: the caller vouches for the place.
                unsafe { volatile::VolatilePtr::new(at) }.write(value);
            }
        }
    };
}

word!(u8, "ldrb {value:w}, [{at}]", "strb {value:w}, [{at}]");
word!(u16, "ldrh {value:w}, [{at}]", "strh {value:w}, [{at}]");
word!(u32, "ldr {value:w}, [{at}]", "str {value:w}, [{at}]");

/// Orders a register store after earlier stores to memory. The other side is the device, which
/// reads the ring after it has seen the register change: without this it may read an old ring.
#[inline(always)]
fn before_store() {
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: a barrier.
    unsafe {
        core::arch::asm!("dmb oshst", options(nostack, preserves_flags));
    }
    #[cfg(all(any(target_arch = "riscv32", target_arch = "riscv64"), not(miri)))]
    // SAFETY: a barrier.
    unsafe {
        core::arch::asm!("fence w, o", options(nostack, preserves_flags));
    }
    // Stores leave an x86 CPU in program order, uncached ones too: only the compiler is to be held.
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
    #[cfg(any(
        miri,
        not(any(
            target_arch = "aarch64",
            target_arch = "riscv32",
            target_arch = "riscv64",
            target_arch = "x86",
            target_arch = "x86_64"
        ))
    ))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}

/// Orders a register load before later accesses of memory. The other side is the device, which
/// writes the ring and then lets the register change: without this an old ring may be read.
#[inline(always)]
fn after_load() {
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: a barrier.
    unsafe {
        core::arch::asm!("dmb oshld", options(nostack, preserves_flags));
    }
    #[cfg(all(any(target_arch = "riscv32", target_arch = "riscv64"), not(miri)))]
    // SAFETY: a barrier.
    unsafe {
        core::arch::asm!("fence i, rw", options(nostack, preserves_flags));
    }
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
    #[cfg(any(
        miri,
        not(any(
            target_arch = "aarch64",
            target_arch = "riscv32",
            target_arch = "riscv64",
            target_arch = "x86",
            target_arch = "x86_64"
        ))
    ))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}

/// Orders earlier stores to memory before later ones, for a device that is not a CPU.
///
/// Under `VIRTIO_F_ORDER_PLATFORM` a release store is not enough everywhere: on aarch64 it orders
/// for the inner shareable domain, where CPUs are, and a device is in the outer one.
#[inline]
pub(crate) fn fence_to_device() {
    #[cfg(all(test, feature = "test-util"))]
    count_strong_fence(0);
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: a barrier.
    unsafe {
        core::arch::asm!("dmb oshst", options(nostack, preserves_flags));
    }
    #[cfg(not(all(target_arch = "aarch64", not(miri))))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
}

/// Orders earlier loads from memory before later accesses, for a device that is not a CPU: the
/// other side of [`fence_to_device`].
#[inline]
pub(crate) fn fence_from_device() {
    #[cfg(all(test, feature = "test-util"))]
    count_strong_fence(1);
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: a barrier.
    unsafe {
        core::arch::asm!("dmb oshld", options(nostack, preserves_flags));
    }
    #[cfg(not(all(target_arch = "aarch64", not(miri))))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::Acquire);
}

/// Orders everything before it before everything behind it, for the devices of an emulated machine:
/// see [`full_fence`](crate::ring::notify). Elsewhere than on x86 of 64 bits it is not called.
#[inline(always)]
pub(crate) fn mfence() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a barrier, which every CPU of this architecture has.
    unsafe {
        core::arch::asm!("mfence", options(nostack, preserves_flags));
    }
}

/// Orders everything before it before everything behind it, for a device that is not a CPU.
#[inline]
pub(crate) fn fence_with_device() {
    #[cfg(all(test, feature = "test-util"))]
    count_strong_fence(2);
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: a barrier.
    unsafe {
        core::arch::asm!("dmb osh", options(nostack, preserves_flags));
    }
    #[cfg(not(all(target_arch = "aarch64", not(miri))))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}

#[cfg(all(test, feature = "test-util"))]
std::thread_local! {
    static STRONG_FENCES: core::cell::Cell<[u32; 3]> = const { core::cell::Cell::new([0; 3]) };
}

#[cfg(all(test, feature = "test-util"))]
fn count_strong_fence(which: usize) {
    let mut counts = STRONG_FENCES.get();
    counts[which] += 1;
    STRONG_FENCES.set(counts);
}

/// Fences of this thread since this was last asked: to, from and with the device.
#[cfg(all(test, feature = "test-util"))]
pub(crate) fn strong_fences() -> [u32; 3] {
    STRONG_FENCES.take()
}

/// The eight I/O ports of PCI configuration mechanism #1: the address at `0xcf8`, the data at
/// `0xcfc`. Implemented by [`NativePorts`], and by whoever reaches ports in another way.
///
/// # Safety
/// [`ConfigAccess`](crate::transport::pci::ConfigAccess) is made of it, whose promises it has to
/// allow: a call is one access of that port, of exactly that width, in the order of the calls, and
/// a value is made only by who answers for what configuration space is used for.
pub unsafe trait ConfigPorts {
    /// Reads 8 bits.
    fn read8(&self, port: u16) -> u8;
    /// Reads 16 bits.
    fn read16(&self, port: u16) -> u16;
    /// Reads 32 bits.
    fn read32(&self, port: u16) -> u32;
    /// Writes 8 bits.
    fn write8(&self, port: u16, value: u8);
    /// Writes 16 bits.
    fn write16(&self, port: u16, value: u16);
    /// Writes 32 bits.
    fn write32(&self, port: u16, value: u32);
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
pub use ports::{NativePorts, Ports};
