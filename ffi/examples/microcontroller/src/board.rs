//! The board: the vector table, the start-up code, and the debugger's output (semihosting).

use core::arch::{asm, global_asm};
use core::fmt::{self, Write};
use core::panic::PanicInfo;

// The initial stack pointer, and the handlers of the first fifteen exceptions, of which only a reset is expected.
global_asm!(
    ".section .vectors, \"a\"",
    ".word stack_end, reset, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, fault, 0, fault, fault",
    ".text",
    // A pattern in the whole stack, so that its use can be measured; then the static data, and the floating-point unit.
    ".global reset",
    ".thumb_func",
    "reset:",
    "ldr r0, =stack_start; ldr r1, =stack_end; ldr r2, ={PATTERN}",
    "1: cmp r0, r1; bhs 2f; str r2, [r0], #4; b 1b",
    "2: ldr r0, =data_start; ldr r1, =data_end; ldr r2, =data_load",
    "3: cmp r0, r1; bhs 4f; ldr r3, [r2], #4; str r3, [r0], #4; b 3b",
    "4: ldr r0, =bss_start; ldr r1, =bss_end; movs r2, #0",
    "5: cmp r0, r1; bhs 6f; str r2, [r0], #4; b 5b",
    "6: ldr r0, =0xE000ED88; ldr r1, [r0]; orr r1, r1, #0xF00000; str r1, [r0]; dsb; isb",
    "bl {start}",
    "udf #0",
    ".thumb_func",
    "fault: b {fault}",
    PATTERN = const PATTERN,
    start = sym start,
    fault = sym fault,
);

/// What an unused word of the stack has.
const PATTERN: u32 = 0xC0DE_CAFE;

unsafe extern "C" {
    static stack_start: u32;
    static stack_end: u32;
    static data_start: u8;
    static bss_end: u8;
}

extern "C" fn start() -> ! {
    stop(crate::main())
}

extern "C" fn fault() -> ! {
    print_fmt(format_args!("microcontroller: a processor fault"));
    stop(2)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    print_fmt(format_args!("microcontroller: {info}"));
    stop(101)
}

/// Returns the bytes of the stack that were ever written.
pub fn stack_used() -> usize {
    let (mut at, end) = (&raw const stack_start, &raw const stack_end);
    // SAFETY: from the first to the last word of the stack, which is in the RAM.
    unsafe {
        while at < end && at.read_volatile() == PATTERN {
            at = at.add(1);
        }
    }
    end.addr() - at.addr()
}

/// Returns the bytes of static data.
pub fn static_bytes() -> usize {
    (&raw const bss_end).addr() - (&raw const data_start).addr()
}

/// Asks the debugger for a service.
fn call(service: u32, argument: usize) {
    // SAFETY: the debugger reads what the argument points to, and changes r0 alone.
    unsafe { asm!("bkpt 0xAB", inout("r0") service => _, in("r1") argument) }
}

/// Ends the program with a status that the debugger passes on.
fn stop(status: u32) -> ! {
    const EXIT_EXTENDED: u32 = 0x20;
    const APPLICATION_EXIT: u32 = 0x2_0026;
    call(EXIT_EXTENDED, [APPLICATION_EXIT, status].as_ptr().expose_provenance());
    loop {}
}

/// Collects a line in a buffer of its own, since printing must not allocate.
struct Line {
    bytes: [u8; 160],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            // The last two bytes are a new line and the end.
            if self.len < self.bytes.len() - 2 {
                self.bytes[self.len] = byte;
                self.len += 1;
            }
        }
        Ok(())
    }
}

/// Prints a line.
pub fn print_fmt(text: fmt::Arguments<'_>) {
    const WRITE0: u32 = 4;
    let mut line = Line { bytes: [0; 160], len: 0 };
    let _ = line.write_fmt(text);
    line.bytes[line.len] = b'\n';
    call(WRITE0, line.bytes.as_ptr().expose_provenance());
}

/// Prints a line.
macro_rules! print {
    ($($argument:tt)*) => { $crate::board::print_fmt(format_args!($($argument)*)) };
}
pub(crate) use print;
