//! Saves and restores a sharded optimizer, in the files of [`crate::checkpoint`].

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use lion::checkpoint::{Checkpoint, SavedVariable, Tensor};
use lion::tensor_file::TensorFile;
use lion::{Lion, TensorBuf};

use super::Sharded;
use super::call::{Call, Purpose};
use crate::agreement::Field;
use crate::checkpoint::{Index, IndexedFile, IndexedVariable, RUN_KEY, Run, check_run, sweep};
use crate::{Communicator, Error, Update};

/// A checkpoint that this rank has read, before it knows whether the other ranks could.
struct Restored {
    optimizer: Lion,
    /// By variable, the elements that the rank owns.
    parameters: Vec<TensorBuf>,
}

impl<C: Communicator> Sharded<C> {
    /// Saves parameters and state. Each rank writes a file beside the index; then rank 0 writes the index, which is the
    /// commit. Collective: all ranks name the same index, in a folder that all see, and all variables. Gradients are ignored.
    /// See [`checkpoint`](crate::checkpoint).
    ///
    /// # Errors
    /// Variables that are missing; a path that does not end in a name with an extension; files that cannot be written. The
    /// earlier checkpoint is then still in place. Only if the last agreement fails may the new one be.
    pub fn save(&mut self, index: impl AsRef<Path>, updates: &mut [Update<'_>]) -> Result<(), Error> {
        let path = index.as_ref();
        self.require_whole()?;
        let iterations = self.optimizer.iterations();
        let prepared = self.prepare(updates, Purpose::All).and_then(|(call, mut fields)| {
            // The folder may have another path on another rank.
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            fields.push(Field { name: "the index", text: name });
            Run::new(path, iterations, 0).map(|_| (call, fields))
        });
        let call = self.agreed("save", prepared)?;
        let mut random = Run::random().to_ne_bytes();
        let shared = self.communicator.broadcast(0, &mut random).map_err(Error::from);
        self.connected(shared)?;
        let run = Run::new(path, iterations, u64::from_ne_bytes(random))?;

        let (rank, ranks) = (self.communicator.rank(), self.communicator.size());
        let own = run.path(rank, ranks);
        let written = self.write_shard(&call, &run, &own, updates);
        if let Err(error) = self.agreed("the files of save", written.map(|()| ((), Vec::new()))) {
            // If it cannot be removed, or was never there, the next save looks for it.
            let _ = fs::remove_file(&own);
            return Err(error);
        }
        let committed = if rank == 0 { self.index(&run).write(path) } else { Ok(()) };
        self.agreed("the index of save", committed.map(|()| ((), Vec::new())))?;
        if rank == 0 {
            sweep(&run);
        }
        Ok(())
    }

    /// Restores a checkpoint that any number of ranks has saved: reads the state that this rank owns, and gives every rank
    /// all parameters. Collective: all ranks name the same checkpoint, and all variables. Gradients are ignored. The options
    /// of this optimizer do not change.
    ///
    /// # Errors
    /// A checkpoint that a rank cannot read, that is not whole, or that belongs to another optimizer. Nothing has changed
    /// then, except after [`Error::Aborted`].
    pub fn restore(&mut self, index: impl AsRef<Path>, updates: &mut [Update<'_>]) -> Result<(), Error> {
        self.require_whole()?;
        let prepared = self.prepare(updates, Purpose::All);
        let read = prepared.and_then(|(call, _)| {
            let path = index.as_ref();
            let index = Index::read(path)?;
            let restored = self.read_shards(path, &index)?;
            let text = format!("the run {} after {} calls", index.run, index.iterations);
            Ok(((call, restored), vec![Field { name: "the checkpoint", text }]))
        });
        let (call, restored) = self.agreed("restore", read)?;
        self.optimizer = restored.optimizer;
        let given = self.give_parameters(&call, &restored.parameters, updates);
        self.or_abort(given)
    }

    /// Writes the state that this rank owns.
    fn write_shard(
        &self,
        call: &Call,
        run: &Run,
        path: &Path,
        updates: &mut [Update<'_>],
    ) -> Result<(), Error> {
        let rank = self.communicator.rank();
        let mut checkpoint = self.optimizer.checkpoint()?;
        let mut variables = Vec::new();
        for (index, variable) in std::mem::take(&mut checkpoint.variables).into_iter().enumerate() {
            let held = self.layout.held(rank, index);
            // A variable without elements is in the file of rank 0.
            if held.is_empty() && (rank > 0 || self.variables.get(index).is_none_or(|it| it.len > 0)) {
                continue;
            }
            let place = call.places.get(index).copied().flatten();
            let parameter = match place.and_then(|place| updates.get(place)) {
                Some(update) => Some(Tensor::Borrowed(update.parameter.to_ref().range(held)?)),
                None => None,
            };
            variables.push(SavedVariable { parameter, ..variable });
        }
        checkpoint.variables = variables;
        Ok(checkpoint.write_with(path, &[(RUN_KEY, &run.id)])?)
    }

    fn index(&self, run: &Run) -> Index {
        let ranks = self.layout.ranks();
        let variables = self.optimizer.variables();
        let variables = variables.map(|it| IndexedVariable::new(it.name, it.shape, it.dtype));
        let files =
            (0..ranks).map(|rank| IndexedFile::new(run.file_name(rank, ranks), self.layout.shard(rank)));
        Index::new(run.id.clone(), self.optimizer.iterations(), variables.collect(), files.collect())
    }

    /// Reads the state that this rank owns, from the files that have it.
    fn read_shards(&self, path: &Path, index: &Index) -> Result<Restored, Error> {
        let wrong = |tensor: String, reason: String| lion::Error::State { tensor, reason };
        let indexed: HashMap<_, _> = index.variables.iter().map(|it| (it.name.as_str(), it)).collect();
        for own in self.optimizer.variables() {
            let expected = IndexedVariable::new(own.name, own.shape, own.dtype);
            match indexed.get(own.name) {
                Some(found) if **found == expected => {}
                Some(IndexedVariable { shape, dtype, .. }) => {
                    let reason = format!(
                        "is {dtype} of shape {shape:?}, and the variable {} of {:?}",
                        own.dtype, own.shape
                    );
                    return Err(wrong(format!("param/{}", own.name), reason).into());
                }
                None => return Err(wrong(format!("param/{}", own.name), "is missing".into()).into()),
            }
        }
        if let Some(other) = index.variables.iter().find(|it| self.optimizer.variable(&it.name).is_none()) {
            let reason = "the optimizer has no such variable".into();
            return Err(wrong(format!("param/{}", other.name), reason).into());
        }
        // A copy of the state, so that a file that fails leaves this one as it is.
        let mut optimizer = self.optimizer.clone();
        let held: Vec<Range<usize>> = optimizer.variables().map(|it| it.held.clone()).collect();
        let numbers: HashMap<_, _> = self.ids.iter().enumerate().map(|(number, &id)| (id, number)).collect();
        let parameters =
            self.variables.iter().zip(&held).map(|(it, held)| TensorBuf::zeroed(it.dtype, held.len()));
        let mut parameters = parameters.collect::<Result<Vec<_>, _>>()?;
        let mut found: Vec<Vec<Range<usize>>> = vec![Vec::new(); held.len()];
        let own = |name: &str, range: &Range<usize>| {
            let held = self.optimizer.variable(name).and_then(|id| held.get(*numbers.get(&id)?));
            let start = held.map_or(range.end, |held| held.start).max(range.start);
            start..held.map_or(start, |held| held.end.min(range.end)).max(start)
        };
        for (number, (path, parts)) in index.parts(path).enumerate() {
            // A rank that owns nothing needs the counters all the same.
            if number > 0 && parts.iter().all(|(variable, range)| own(&variable.name, range).is_empty()) {
                continue;
            }
            check_run(&TensorFile::open(&path)?, index)?;
            let part = Checkpoint::read_part(&path, |name, range| own(name, &range))?;
            let in_file = |reason: String| lion::Error::File { file: path.clone(), tensor: None, reason };
            let taken = optimizer.restore_part(&part).map_err(|error| in_file(error.to_string()))?;
            for (id, range) in taken {
                let Some(&number) = numbers.get(&id) else { continue };
                let (name, own) = (self.optimizer.name(id).unwrap_or_default(), &held[number]);
                let saved = part.variables.iter().find(|it| it.name == name);
                let parameter = saved.and_then(|saved| Some((saved, saved.parameter.as_ref()?)));
                let Some((saved, parameter)) = parameter else {
                    return Err(in_file(format!("param/{name}: is missing")).into());
                };
                let from = saved.shard.as_ref().map_or(0, |shard| shard.start);
                let values = parameter.to_ref().range(range.start - from..range.end - from)?;
                let to = parameters[number].to_mut();
                let copied = to.range(range.start - own.start..range.end - own.start)?.copy_from(values);
                if !copied {
                    return Err(in_file(format!("param/{name}: is of another dtype")).into());
                }
                found[number].push(range);
            }
        }
        // The parts of an index do not overlap, but a file may have other parts than its index says.
        for ((mut found, held), variable) in found.into_iter().zip(&held).zip(&self.variables) {
            found.sort_unstable_by_key(|range| range.start);
            let ends = found.iter().map(|range| range.end);
            let starts = found.iter().map(|range| range.start);
            if !std::iter::once(held.start).chain(ends).eq(starts.chain([held.end])) {
                let reason = format!("its files have the elements {found:?}, and {held:?} are wanted");
                return Err(wrong(format!("param/{}", variable.name), reason).into());
            }
        }
        Ok(Restored { optimizer, parameters })
    }

    fn give_parameters(
        &mut self,
        call: &Call,
        parameters: &[TensorBuf],
        updates: &mut [Update<'_>],
    ) -> Result<(), Error> {
        let rank = self.communicator.rank();
        for (index, (place, values)) in call.places.iter().zip(parameters).enumerate() {
            let update = place.and_then(|place| updates.get_mut(place));
            let held = self.layout.held(rank, index);
            if let Some(update) = update.filter(|_| !held.is_empty()) {
                let mut own = update.parameter.reborrow().range(held)?;
                let alike = own.copy_from(values.to_ref());
                debug_assert!(alike, "both are of the variable's dtype");
            }
        }
        self.gather(call, updates, |_| true)
    }
}
