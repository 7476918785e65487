//! Checked reading of octets: nothing is taken that is not there.

use super::MessageError;

/// Octets not yet read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    octets: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(octets: &'a [u8]) -> Self {
        Self { octets }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.octets.len()
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], MessageError> {
        let short = MessageError::Truncated { what, needed: N, found: self.octets.len() };
        let (array, rest) = self.octets.split_first_chunk().ok_or(short)?;
        self.octets = rest;
        Ok(*array)
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, MessageError> {
        self.array(what).map(|[octet]| octet)
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, MessageError> {
        self.array(what).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, MessageError> {
        self.array(what).map(u32::from_be_bytes)
    }

    pub(super) fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], MessageError> {
        let short = MessageError::Truncated { what, needed: len, found: self.octets.len() };
        let (taken, rest) = self.octets.split_at_checked(len).ok_or(short)?;
        self.octets = rest;
        Ok(taken)
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.octets)
    }

    /// A part of its own, of `len` octets that include `header` octets already read.
    pub(super) fn part(
        &mut self,
        len: usize,
        header: usize,
        what: &'static str,
        expected: &'static str,
    ) -> Result<Self, MessageError> {
        let body = len.checked_sub(header).ok_or(MessageError::Length { what, found: len, expected })?;
        self.take(body, what).map(Self::new)
    }
}
