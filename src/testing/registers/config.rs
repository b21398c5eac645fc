//! The configuration space, and how it changes under the driver (VIRTIO 1.4, 2.5).

use alloc::format;
use alloc::vec::Vec;

use super::Registers;
use crate::testing::device::Generation;
use crate::transport::{Status, TransportError};

impl Registers {
    pub(in crate::testing) fn read_generation(&mut self) -> Option<u32> {
        if self.is_legacy() {
            return None;
        }
        match self.generation_kind {
            Generation::Absent => return None,
            Generation::Steady => {}
            Generation::NeverSettles => self.generation = self.generation.wrapping_add(1),
        }
        Some(self.generation)
    }

    pub(in crate::testing) fn read_config(
        &mut self,
        at: usize,
        dst: &mut [u8],
    ) -> Result<(), TransportError> {
        self.check_config(at, dst.len())?;
        let half = match dst.len() {
            8 => 4,
            len => len,
        };
        let (first, second) = dst.split_at_mut(half);
        first.copy_from_slice(&self.config[at..at + half]);
        if let Some(bytes) = self.config_changes.pop_front() {
            self.change_config(bytes);
        }
        for (i, byte) in second.iter_mut().enumerate() {
            // A change may have made the configuration shorter.
            *byte = self.config.get(at + half + i).copied().unwrap_or(0xff);
        }
        Ok(())
    }

    pub(in crate::testing) fn write_config(
        &mut self,
        at: usize,
        src: &[u8],
    ) -> Result<(), TransportError> {
        // Legacy drivers write it when they like (VIRTIO 1.4, 3.1.2).
        if !self.features_ok() && !self.is_legacy() {
            let what = format!("configuration is written in status {:?}", self.status);
            self.violation("LC-003", what);
        }
        if self.status.contains(Status::SUSPEND) {
            self.violation("LC-014", "configuration is written while suspended".into());
        }
        self.check_config(at, src.len())?;
        self.config[at..at + src.len()].copy_from_slice(src);
        Ok(())
    }

    fn check_config(&self, offset: usize, len: usize) -> Result<(), TransportError> {
        let size = self.config.len();
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ => Err(TransportError::ConfigOutOfRange { offset, len, size }),
        }
    }

    pub(in crate::testing) fn change_config(&mut self, bytes: Vec<u8>) {
        self.config = bytes;
        self.generation = self.generation.wrapping_add(1);
        self.raise(2);
    }
}
