//! Finds memory that a step would write twice, when a list is prepared, and refuses it.

use std::ops::Range;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::entry::Entry;
use super::exchange::View;

/// PyTorch's words for it.
const WITHIN: &str = "unsupported operation: more than one element of the written-to tensor refers to a single memory \
                      location. Please clone() the tensor before performing the operation.";

/// Returns the address ranges that the steps write, sorted. A range may span memory of other tensors, but contains no written
/// element twice.
pub(super) fn written(entries: &[Entry]) -> PyResult<Vec<Range<usize>>> {
    let mut tensors: Vec<(Range<usize>, &View, &str)> = Vec::new();
    for entry in entries {
        for slot in entry.written() {
            let span = slot.view.span();
            if !span.is_empty() {
                tensors.push((span, &slot.view, &entry.name));
            }
        }
    }
    tensors.sort_by_key(|(span, ..)| span.start);
    let mut spans: Vec<Range<usize>> = Vec::new();
    let mut rest = &tensors[..];
    while let Some((first, ..)) = rest.first() {
        // Tensors whose spans hang together.
        let mut end = first.end;
        let count = rest
            .iter()
            .take_while(|(span, ..)| {
                let joined = span.start < end;
                end = if joined { end.max(span.end) } else { end };
                joined
            })
            .count();
        let (cluster, after) = rest.split_at(count);
        if cluster.len() > 1 || cluster.iter().any(|(_, view, _)| !view.is_dense()) {
            check(first.start..end, cluster)?;
        }
        spans.push(first.start..end);
        rest = after;
    }
    Ok(spans)
}

/// Marks every element in a map of the cluster's memory.
fn check(cluster: Range<usize>, tensors: &[(Range<usize>, &View, &str)]) -> PyResult<()> {
    /// Size of the smallest element in bytes.
    const UNIT: usize = 1;
    let mut owners = vec![0_u64; cluster.len().div_ceil(UNIT).div_ceil(64)];
    for (at, (_, view, name)) in tensors.iter().enumerate() {
        let mut twice = false;
        walk(view, |address| {
            for unit in
                (address - cluster.start) / UNIT..(address - cluster.start + view.dtype.size()).div_ceil(UNIT)
            {
                if let Some(word) = owners.get_mut(unit / 64) {
                    twice |= *word & 1 << (unit % 64) != 0;
                    *word |= 1 << (unit % 64);
                }
            }
        });
        if twice {
            let other = tensors.iter().take(at).find(|(span, ..)| span.end > view.address);
            return Err(PyRuntimeError::new_err(match other {
                None => format!("{name}: {WITHIN}"),
                Some((_, _, other)) if other == name => {
                    format!("{name} shares memory with its state: {WITHIN}")
                }
                Some((_, _, other)) => format!("{other} and {name} share memory: {WITHIN}"),
            }));
        }
    }
    Ok(())
}

fn walk(view: &View, mut visit: impl FnMut(usize)) {
    fn along(sides: &[(i64, i64)], address: usize, size: usize, visit: &mut impl FnMut(usize)) {
        match sides.split_first() {
            None => visit(address),
            Some((&(side, stride), rest)) => {
                for index in 0..side {
                    along(rest, address.wrapping_add((index * stride) as usize * size), size, visit);
                }
            }
        }
    }
    let sides: Vec<_> = view.sides().collect();
    along(&sides, view.address, view.dtype.size(), &mut visit);
}
