//! Suggests names for a misspelled one.

/// Returns up to three names within a few edits of a wrong name, nearest first, or all names if none is that near.
pub(super) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    // A longer text is near to no name, and the time for a distance is the product of the lengths.
    let wrong: Vec<char> = wrong.chars().take(64).collect();
    let mut all: Vec<_> = names.map(|name| (distance(&wrong, name), name)).collect();
    // At least half of its letters are right.
    let is_near = |&(distance, name): &(usize, &str)| distance * 2 <= name.len().min(wrong.len());
    if all.iter().any(is_near) {
        all.retain(is_near);
        all.sort_by_key(|&(distance, _)| distance);
        all.truncate(3);
    }
    all.into_iter().map(|(_, name)| name).collect()
}

/// Returns the edit distance (Levenshtein).
fn distance(wrong: &[char], name: &str) -> usize {
    // The distances between the empty prefix of the name and every prefix of the wrong one.
    let mut row: Vec<usize> = (0..=wrong.len()).collect();
    for (i, letter) in name.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &other) in wrong.iter().enumerate() {
            let exchanged = diagonal + usize::from(letter != other);
            diagonal = row[j + 1];
            row[j + 1] = exchanged.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[wrong.len()]
}
