//! Numbers, texts, addresses and structs, some of them wrong.

use std::ffi::{CString, c_char, c_void};
use std::ptr;

use crate::{Driver, LONGEST, MEMORY};

/// Structs as C lays them out, of whatever size they say.
pub(crate) struct Structs {
    words: Vec<u64>,
    pub(crate) count: usize,
}

impl Structs {
    pub(crate) fn address<T>(&mut self) -> *mut T {
        self.words.as_mut_ptr().cast()
    }
}

impl Driver {
    pub(crate) fn one_in(&mut self, n: u32) -> bool {
        self.rng.u32(..n) == 0
    }

    /// A number that is mostly small, and sometimes anything.
    pub(crate) fn number(&mut self, below: usize) -> usize {
        match self.rng.u32(..40) {
            0 => usize::MAX - self.rng.usize(..3),
            1 => self.rng.usize(..),
            2 => isize::MAX as usize,
            _ => self.rng.usize(..below),
        }
    }

    pub(crate) fn float(&mut self) -> f64 {
        match self.rng.u32(..20) {
            0 => f64::NAN,
            1 => f64::INFINITY,
            2 => f64::from_bits(self.rng.u64(..)),
            3 => -1.0,
            4 => 0.0,
            _ => self.rng.f64(),
        }
    }

    pub(crate) fn at(&mut self, bytes: usize) -> *mut c_void {
        self.memory.as_mut_ptr().wrapping_byte_add(bytes).cast()
    }

    /// The address of a tensor: mostly aligned.
    pub(crate) fn tensor(&mut self) -> *mut c_void {
        if self.one_in(20) {
            return ptr::null_mut();
        }
        let at = self.rng.usize(..MEMORY / 2);
        let at = if self.one_in(20) { at } else { at & !63 };
        self.at(at)
    }

    /// Elements for which there is memory.
    pub(crate) fn len(&mut self) -> usize {
        const USUAL: [usize; 7] = [0, 1, 6, 17, 4096, 5000, LONGEST];
        if self.one_in(10) { self.rng.usize(..=LONGEST) } else { USUAL[self.rng.usize(..USUAL.len())] }
    }

    pub(crate) fn dtype(&mut self) -> u32 {
        match self.rng.u32(..30) {
            0 => 0,
            1 => 4,
            2 => self.rng.u32(..),
            _ => self.rng.u32(1..=3),
        }
    }

    /// A text that lives until the next call.
    pub(crate) fn text(&mut self, usual: &[&str]) -> *const c_char {
        if self.one_in(30) {
            return ptr::null();
        }
        let mut bytes = usual[self.rng.usize(..usual.len())].as_bytes().to_vec();
        while self.one_in(4) {
            let at = self.rng.usize(..=bytes.len());
            match self.rng.u32(..3) {
                0 => bytes.insert(at, self.rng.u8(1..)),
                1 => bytes.truncate(at),
                _ if at < bytes.len() => bytes[at] = self.rng.u8(1..),
                _ => {}
            }
        }
        self.texts.push(CString::new(bytes).expect("no zero within"));
        self.texts.last().expect("it was pushed").as_ptr()
    }

    /// Structs of the size that the first word of the first one says, which is mostly right.
    pub(crate) fn structs<T: Copy>(&mut self, mut structs: Vec<T>) -> Structs {
        let own = size_of::<T>();
        let size = match self.rng.u32(..20) {
            0 => 8 * self.rng.usize(..own / 8),
            1 => own + 8 * self.rng.usize(..4),
            2 => self.rng.usize(..64),
            3 => self.number(4096),
            _ => own,
        };
        let unknown = if self.one_in(4) { self.rng.u64(..) } else { 0 };
        // A size that is refused is looked at in the first struct alone.
        let stride = if (8..=4096).contains(&size) { size.next_multiple_of(8) } else { own };
        let mut words = vec![0; structs.len() * stride / 8 + own / 8];
        for (index, one) in structs.iter_mut().enumerate() {
            let to = words.as_mut_ptr().wrapping_byte_add(index * stride);
            // The first one's size is that of the memory.
            let odd = index > 0 && self.one_in(20);
            // SAFETY: the list has room for each, and each begins with its size.
            unsafe {
                ptr::from_mut(one).cast::<usize>().write(if odd { self.rng.usize(..200) } else { size });
                ptr::copy_nonoverlapping(ptr::from_ref(one).cast::<u8>(), to.cast(), stride.min(own));
                if stride > own {
                    to.wrapping_byte_add(own).write(unknown);
                }
            }
        }
        Structs { words, count: structs.len() }
    }
}
