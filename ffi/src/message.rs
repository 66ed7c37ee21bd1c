//! Sentences in a buffer of fixed size: the explanation of a failure, without allocation.

use crate::failure::Failure;
use crate::params::strata_error;
use core::ffi::c_char;
use core::fmt::{self, Write};
use core::mem::offset_of;
use core::ptr;

/// One sentence, cut at the end of the buffer, and a zero.
pub(crate) struct Message {
    bytes: [u8; Self::ROOM],
    len: usize,
    room: usize,
}

impl Message {
    const ROOM: usize = size_of::<strata_error>() - offset_of!(strata_error, message);

    /// Makes an empty one.
    pub const fn new() -> Self {
        Self { bytes: [0; Self::ROOM], len: 0, room: Self::ROOM }
    }

    /// Replaces it by the sentence of `failure`, or by nothing.
    pub fn say(&mut self, failure: Option<&Failure>) {
        (self.len, self.bytes[0]) = (0, 0);
        if let Some(failure) = failure {
            // An error means that the sentence was cut.
            let _ = write!(self, "{failure}");
        }
    }

    /// Ends with a zero.
    pub fn as_ptr(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }
}

impl Write for Message {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut end = text.len().min(self.room - 1 - self.len);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.bytes[self.len..][..end].copy_from_slice(&text.as_bytes()[..end]);
        self.len += end;
        self.bytes[self.len] = 0;
        if end == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Writes as much of the sentence as the struct of the caller can hold.
///
/// # Safety
/// `err` is NULL or points to a struct of `struct_size` bytes.
pub(crate) unsafe fn explain(err: *mut strata_error, failure: &Failure) {
    const MESSAGE: usize = offset_of!(strata_error, message);
    if err.is_null() || !err.is_aligned() {
        return;
    }
    // SAFETY: not NULL, aligned, and every such struct begins with its size.
    let size = unsafe { err.cast::<usize>().read() }.min(size_of::<strata_error>());
    if size <= MESSAGE {
        return;
    }
    // SAFETY: the struct reaches beyond its `status`.
    unsafe { (*err).status = failure.status };
    let mut message = Message { room: size - MESSAGE, ..Message::new() };
    message.say(Some(failure));
    let to = err.cast::<u8>().wrapping_add(MESSAGE);
    // SAFETY: the sentence and its zero fit between `MESSAGE` and `size`.
    unsafe { ptr::copy_nonoverlapping(message.bytes.as_ptr(), to, message.len + 1) };
}
