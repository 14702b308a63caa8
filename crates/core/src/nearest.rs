//! Suggestions for names that are not valid; pure.

/// The edit distance beyond which a suggestion is noise.
const NEAREST_MAX_DISTANCE: usize = 3;

/// The candidate that `wrong` was probably meant to be, if one is similar enough.
pub fn nearest<'a>(wrong: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .filter(|(distance, name)| *distance <= NEAREST_MAX_DISTANCE && *distance < name.len())
        .min()
        .map(|(_, name)| name)
}
