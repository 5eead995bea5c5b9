//! The agreement at the start of every collective call: either all ranks go on, or none does and all know why.
//!
//! One all-reduce-min carries the word of each rank: whether it has an error, and a hash of each field that must be equal
//! on all ranks. A field travels as its hash and the hash's complement. The smallest complement belongs to the largest
//! hash. So if the two minima are complements of each other, smallest and largest hash are equal, and so are all hashes.
//! Ranks send texts only if something is wrong.
//!
//! All calls send the same number of numbers, and their first field is the name of the call. So ranks in different calls
//! find that out too.

use crate::{CommunicationError, Communicator, Error};

/// A text that must be equal on all ranks.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    /// A line for each thing that may differ.
    pub(crate) text: String,
}

/// The maximum number of fields of a call.
const FIELDS: usize = 7;
/// Sent in place of a hash by a rank in error, or in a call with fewer fields. It is above all hashes.
const NOTHING: u64 = u64::MAX;
/// Longer texts are truncated, so that an error cannot take all memory.
const LONGEST: usize = 1 << 20;

/// Returns this rank's value if all ranks are in the call `what`, none has an error, and the fields are equal everywhere.
///
/// # Errors
/// The rank's own error; [`Error::Elsewhere`] for another rank's; [`Error::Disagreement`];
/// [`Error::Communication`].
pub(crate) fn agree<T>(
    communicator: &mut impl Communicator,
    what: &'static str,
    word: Result<(T, Vec<Field>), Error>,
) -> Result<T, Error> {
    let mut fields = Vec::new();
    let word = word.map(|(value, own)| {
        fields.push(Field { name: "the call", text: what.into() });
        fields.extend(own);
        value
    });
    debug_assert!(fields.len() <= FIELDS, "{} fields", fields.len());
    let hashes: Vec<u64> = fields.iter().map(|field| hash(&field.text)).collect();
    let mut numbers = [NOTHING; 1 + 2 * FIELDS];
    if word.is_err() {
        numbers[0] = communicator.rank() as u64;
    }
    for (pair, &hash) in numbers[1..].as_chunks_mut::<2>().0.iter_mut().zip(&hashes) {
        *pair = [hash, !hash];
    }
    communicator.all_reduce_min(&mut numbers)?;
    if let Ok(failed) = usize::try_from(numbers[0])
        && numbers[0] != NOTHING
    {
        let own = word.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let reason = text_of(communicator, failed, &own)?;
        return word.and(Err(Error::Elsewhere { rank: failed, reason }));
    }
    let pairs = numbers[1..].as_chunks::<2>().0;
    let Some(index) = pairs.iter().position(|&[least, complement]| least != !complement && least != NOTHING)
    else {
        return word;
    };
    Err(differ(communicator, fields.get(index), hashes.get(index).copied().unwrap_or(NOTHING))?)
}

/// Makes the error for a field that is not equal on all ranks.
fn differ(
    communicator: &mut impl Communicator,
    field: Option<&Field>,
    hash: u64,
) -> Result<Error, CommunicationError> {
    let size = communicator.size();
    let mut all = vec![0; 8 * size];
    communicator.all_gather(&hash.to_ne_bytes(), &mut all, &vec![8; size])?;
    let hashes = all.as_chunks::<8>().0;
    let rank = hashes.iter().position(|other| Some(other) != hashes.first()).unwrap_or_default();
    let own = field.map_or("", |field| &field.text);
    let expected = text_of(communicator, 0, own)?;
    let found = text_of(communicator, rank, own)?;
    // A line of JSON without its indentation and comma.
    let line = |line: &str| line.trim().trim_end_matches(',').to_owned();
    let lines = |text: &str| text.lines().map(line).chain([String::from("nothing")]).collect::<Vec<_>>();
    let (found, expected) = (lines(&found), lines(&expected));
    let (found, expected) = found
        .into_iter()
        .zip(expected)
        .find(|(found, expected)| found != expected)
        .unwrap_or_else(|| ("another text".into(), "the same text".into()));
    Ok(Error::Disagreement { field: field.map_or("the call", |field| field.name), rank, found, expected })
}

/// Gives all ranks the text that one rank has.
fn text_of(
    communicator: &mut impl Communicator,
    rank: usize,
    own: &str,
) -> Result<String, CommunicationError> {
    let own = &own.as_bytes()[..own.len().min(LONGEST)];
    let mut len = (own.len() as u64).to_ne_bytes();
    communicator.broadcast(rank, &mut len)?;
    let len = usize::try_from(u64::from_ne_bytes(len)).unwrap_or(LONGEST).min(LONGEST);
    let mut text = own.to_vec();
    text.resize(len, 0);
    communicator.broadcast(rank, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// FNV-1a in 64 bits, and never [`NOTHING`] or its complement.
fn hash(text: &str) -> u64 {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    hash.clamp(1, NOTHING - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ThreadCommunicator;

    /// The results of the ranks of a group.
    fn outcomes(words: Vec<(&'static str, Result<Vec<Field>, Error>)>) -> Vec<String> {
        let ranks = ThreadCommunicator::group(words.len());
        let threads: Vec<_> = ranks
            .into_iter()
            .zip(words)
            .map(|(mut rank, (what, word))| {
                std::thread::spawn(move || {
                    let agreed = agree(&mut rank, what, word.map(|fields| ((), fields)));
                    let agreed = agreed.map_or_else(|error| error.to_string(), |()| "agreed".into());
                    // The connection still works: it carries the next agreement.
                    agree(&mut rank, "again", Ok(((), Vec::new()))).expect("agreed");
                    agreed
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    }

    fn fields(texts: [&str; 2]) -> Result<Vec<Field>, Error> {
        Ok(["first", "second"]
            .into_iter()
            .zip(texts)
            .map(|(name, text)| Field { name, text: text.into() })
            .collect())
    }

    #[test]
    fn equal_words_agree() {
        for ranks in 1..=5 {
            let words = (0..ranks).map(|_| ("step", fields(["a\nb", ""]))).collect();
            assert_eq!(outcomes(words), vec!["agreed"; ranks]);
        }
    }

    #[test]
    fn an_error_on_one_rank_is_one_on_all() {
        let error = |name| Err(Error::Setting { name, value: "1".into(), allowed: "2".into() });
        let words = vec![
            ("step", fields(["a", "b"])),
            ("step", error("x")),
            ("save", fields(["c", "d"])),
            ("step", error("y")),
        ];
        let found = outcomes(words);
        let elsewhere = "rank 1: x is 1; expected 2";
        assert_eq!(found, [elsewhere, "x is 1; expected 2", elsewhere, "y is 1; expected 2"]);
    }

    #[test]
    fn what_differs_is_named_with_its_rank() {
        let same = || ("step", fields(["a\nb\nc", "z"]));
        for odd in 1..4 {
            let words =
                (0..4).map(|rank| if rank == odd { ("step", fields(["a\nB\nd", "y"])) } else { same() });
            let expected = format!("first of rank {odd}: B; expected b, as on rank 0");
            assert_eq!(outcomes(words.collect()), vec![expected; 4]);
        }
        let shorter = outcomes(vec![same(), same(), ("step", fields(["a\nb", "z"]))]);
        assert_eq!(shorter, vec!["first of rank 2: nothing; expected c, as on rank 0"; 3]);
        let calls = outcomes(vec![same(), ("save", fields(["q", "q"])), same()]);
        assert_eq!(calls, vec!["the call of rank 1: save; expected step, as on rank 0"; 3]);
        // Rank 0 is the one that is different.
        let first = outcomes(vec![("step", fields(["a", "y"])), ("step", fields(["a", "z"]))]);
        assert_eq!(first, vec!["second of rank 1: z; expected y, as on rank 0"; 2]);
    }
}
