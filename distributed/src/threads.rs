//! Connects threads of one process: for tests, and for a machine with several memory nodes.
//!
//! Every operation is one exchange: each rank deposits its bytes, the last rank to do so publishes all of them, and every
//! rank copies its part. A rank deposits bytes for the next exchange only after it has seen the last one published. So one
//! published exchange is kept.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::{CommunicationError, Communicator};

/// One rank of a group of threads. If it is dropped, by a panic or an early return, the ranks that wait for it get an
/// error.
#[derive(Debug)]
pub struct ThreadCommunicator {
    rank: usize,
    size: usize,
    group: Arc<Group>,
}

#[derive(Debug)]
struct Group {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The ranks' deposits for the next exchange.
    left: Vec<Option<Parcel>>,
    /// The number of published exchanges, and the last one's bytes.
    published: u64,
    parcels: Arc<Vec<Parcel>>,
    /// The reason that no further exchange is possible.
    ended: Option<String>,
}

/// A rank's deposit in an exchange.
#[derive(Debug)]
struct Parcel {
    operation: &'static str,
    bytes: Vec<u8>,
    /// The end of each rank's part; one end if all ranks get all bytes.
    ends: Vec<usize>,
}

impl Parcel {
    fn of(&self, rank: usize) -> &[u8] {
        let (start, end) = match rank.checked_sub(1) {
            _ if self.ends.len() == 1 => (0, self.bytes.len()),
            None => (0, self.ends.first().copied().unwrap_or_default()),
            Some(before) => (
                self.ends.get(before).copied().unwrap_or_default(),
                self.ends.get(rank).copied().unwrap_or_default(),
            ),
        };
        self.bytes.get(start..end).unwrap_or_default()
    }
}

impl ThreadCommunicator {
    /// Makes a group of this many ranks, one for each thread.
    pub fn group(size: usize) -> Vec<Self> {
        let mut state = State::default();
        state.left.resize_with(size, || None);
        let group = Arc::new(Group { state: Mutex::new(state), changed: Condvar::new() });
        (0..size).map(|rank| ThreadCommunicator { rank, size, group: Arc::clone(&group) }).collect()
    }

    fn exchange(
        &mut self,
        operation: &'static str,
        bytes: &[u8],
        ends: Vec<usize>,
    ) -> Result<Arc<Vec<Parcel>>, CommunicationError> {
        let mut state = self.group.lock();
        let number = state.published;
        if let Some(place) = state.left.get_mut(self.rank) {
            *place = Some(Parcel { operation, bytes: bytes.to_vec(), ends });
        }
        if state.ended.is_none() && state.left.iter().all(Option::is_some) {
            let parcels: Vec<_> = state.left.iter_mut().filter_map(Option::take).collect();
            if let Some((rank, other)) =
                parcels.iter().enumerate().find(|(_, parcel)| parcel.operation != operation)
            {
                state.ended = Some(format!(
                    "rank {rank} is in {} and rank {} in {operation}",
                    other.operation, self.rank
                ));
            } else {
                state.published += 1;
                state.parcels = Arc::new(parcels);
            }
            self.group.changed.notify_all();
        }
        loop {
            if state.published > number {
                return Ok(Arc::clone(&state.parcels));
            }
            if let Some(reason) = &state.ended {
                return Err(CommunicationError::new(reason.clone()));
            }
            state = self.group.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Copies the bytes that each rank has for this one.
    fn receive(
        &self,
        parcels: &[Parcel],
        mut receive: &mut [u8],
        counts: &[usize],
    ) -> Result<(), CommunicationError> {
        if counts.len() != self.size || counts.iter().sum::<usize>() != receive.len() {
            let (bytes, ranks) = (receive.len(), counts.len());
            return Err(self.fails(format!("{bytes} bytes from {ranks} ranks are not what the counts say")));
        }
        for (rank, (parcel, &count)) in parcels.iter().zip(counts).enumerate() {
            let found = parcel.of(self.rank);
            let (to, rest) = std::mem::take(&mut receive).split_at_mut(count);
            receive = rest;
            if found.len() != count {
                let reason =
                    format!("rank {rank} sends {} bytes and rank {} expects {count}", found.len(), self.rank);
                return Err(self.fails(reason));
            }
            to.copy_from_slice(found);
        }
        Ok(())
    }

    /// Ends the group, as ranks that disagree about lengths cannot go on.
    fn fails(&self, reason: String) -> CommunicationError {
        self.group.end(reason.clone());
        CommunicationError::new(reason)
    }
}

impl Group {
    /// Ignores poisoning: a rank that panics holds no lock, and the state would be valid if it did.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, reason: String) {
        self.lock().ended.get_or_insert(reason);
        self.changed.notify_all();
    }
}

impl Drop for ThreadCommunicator {
    fn drop(&mut self) {
        self.group.end(format!("rank {} has left", self.rank));
    }
}

impl Communicator for ThreadCommunicator {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_to_all(
        &mut self,
        send: &[u8],
        send_counts: &[usize],
        receive: &mut [u8],
        receive_counts: &[usize],
    ) -> Result<(), CommunicationError> {
        let ends: Vec<_> = send_counts
            .iter()
            .scan(0, |end, count| {
                *end += count;
                Some(*end)
            })
            .collect();
        if ends.len() != self.size || ends.last() != Some(&send.len()) {
            return Err(self.fails(format!("{} bytes to send are not what the counts say", send.len())));
        }
        let parcels = self.exchange("all_to_all", send, ends)?;
        self.receive(&parcels, receive, receive_counts)
    }

    fn all_gather(
        &mut self,
        send: &[u8],
        receive: &mut [u8],
        counts: &[usize],
    ) -> Result<(), CommunicationError> {
        let parcels = self.exchange("all_gather", send, vec![send.len()])?;
        self.receive(&parcels, receive, counts)
    }

    fn all_reduce_min(&mut self, numbers: &mut [u64]) -> Result<(), CommunicationError> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        let parcels = self.exchange("all_reduce_min", &bytes, vec![bytes.len()])?;
        for parcel in parcels.iter() {
            if parcel.bytes.len() != bytes.len() {
                let (found, expected) = (parcel.bytes.len(), bytes.len());
                return Err(self.fails(format!("a rank reduces {found} bytes and another {expected}")));
            }
            for (least, word) in numbers.iter_mut().zip(parcel.bytes.as_chunks().0) {
                *least = u64::from_ne_bytes(*word).min(*least);
            }
        }
        Ok(())
    }

    fn broadcast(&mut self, from: usize, bytes: &mut [u8]) -> Result<(), CommunicationError> {
        let own: &[u8] = if from == self.rank { bytes } else { &[] };
        let parcels = self.exchange("broadcast", own, vec![own.len()])?;
        match parcels.get(from) {
            Some(parcel) if parcel.bytes.len() == bytes.len() => {
                bytes.copy_from_slice(&parcel.bytes);
                Ok(())
            }
            Some(parcel) => {
                let (found, expected) = (parcel.bytes.len(), bytes.len());
                Err(self.fails(format!("rank {from} broadcasts {found} bytes and a rank expects {expected}")))
            }
            None => Err(self.fails(format!("rank {from} does not exist; {} ranks do", self.size))),
        }
    }

    fn abort(&mut self, reason: &str) {
        self.group.end(format!("rank {} aborted: {reason}", self.rank));
    }
}
