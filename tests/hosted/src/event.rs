//! Doorbells and interrupts: both are eventfds.

use std::io;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vring::transport::Doorbell;

/// The eventfd through which a queue tells its back end of new buffers.
///
/// A [`Doorbell`] is a copy of two words, and may be rung long after its transport is gone: so a
/// bell is there for ever, and its descriptor is never another file's.
#[derive(Debug)]
pub struct Bell(EventFd);

impl Bell {
    /// A new bell, which this process keeps until it ends.
    ///
    /// # Errors
    /// When the process may not have another descriptor.
    pub fn new() -> io::Result<&'static Self> {
        Ok(Box::leak(Box::new(Self(EventFd::new(EFD_NONBLOCK)?))))
    }

    /// The file that the back end gets.
    #[must_use]
    pub fn file(&self) -> &EventFd {
        &self.0
    }

    /// The doorbell that rings it.
    #[must_use]
    pub fn doorbell(&'static self, value: u16) -> Doorbell {
        let context = std::ptr::from_ref(self).expose_provenance();
        Doorbell::function(ring, context, value)
    }

    /// How often it was rung since this was asked last. Only for back ends that poll their queues
    /// and never read the eventfd.
    #[must_use]
    pub fn take_rings(&self) -> u64 {
        self.0.read().unwrap_or(0)
    }
}

fn ring(context: usize, _: u32) {
    let bell: *const Bell = std::ptr::with_exposed_provenance(context);
    // SAFETY: `doorbell` alone makes doorbells of this function, from a bell that lives for ever.
    let bell = unsafe { &*bell };
    // It fails only when 2^64 - 2 rings are pending: then the back end will look all the same.
    let _ = bell.0.write(1);
}

/// Waits for interrupts of several queues.
#[derive(Debug)]
pub struct Interrupts<'a> {
    epoll: Epoll,
    files: Vec<&'a EventFd>,
}

impl<'a> Interrupts<'a> {
    /// Of these eventfds.
    ///
    /// # Errors
    /// When the process may not have another descriptor.
    pub fn new(files: impl IntoIterator<Item = &'a EventFd>) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let files: Vec<_> = files.into_iter().collect();
        for (index, file) in files.iter().enumerate() {
            let event = EpollEvent::new(EventSet::IN, index as u64);
            epoll.ctl(ControlOperation::Add, file.as_raw_fd(), event)?;
        }
        Ok(Self { epoll, files })
    }

    /// Waits for one of them, and acknowledges all that came; false when none came within `limit`.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let end = Instant::now() + limit;
        let mut events = vec![EpollEvent::default(); self.files.len()];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let left = left.as_millis().min(60_000) as i32;
            match self.epoll.wait(left, &mut events) {
                Ok(0) if Instant::now() < end => {}
                Ok(0) => return Ok(false),
                Ok(n) => {
                    let came = events.iter().take(n).map(EpollEvent::data);
                    for file in came.filter_map(|data| self.files.get(data as usize)) {
                        // Another reader may have been faster: there is none.
                        let _ = file.read();
                    }
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
