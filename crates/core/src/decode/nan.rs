//! The tokens that Python's `json.dumps` writes for numbers without a JSON form: `NaN`, `Infinity`, `-Infinity`.

/// The tokens, of which none is valid JSON.
const TOKENS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];

/// Replaces each of these tokens by `null`. Returns `None` if the text has none outside strings.
pub(super) fn to_null(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(text.len());
    let (mut replaced, mut in_string) = (false, false);
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        if !in_string && let Some(token) = TOKENS.iter().find(|token| rest.starts_with(token)) {
            replaced = true;
            plain.extend_from_slice(b"null");
            rest = &rest[token.len()..];
            continue;
        }
        plain.push(*first);
        rest = after;
        match first {
            b'"' => in_string = !in_string,
            // The escaped byte is copied with its backslash, as it may be a quote.
            b'\\' => {
                if let Some((escaped, after)) = rest.split_first() {
                    plain.push(*escaped);
                    rest = after;
                }
            }
            _ => {}
        }
    }
    replaced.then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::to_null;

    #[test]
    fn only_bare_tokens_become_null() {
        let cases: [(&str, Option<&str>); 4] = [
            (r#"{"a":NaN,"b":[-Infinity, Infinity]}"#, Some(r#"{"a":null,"b":[null, null]}"#)),
            (r#"{"NaN":"\"NaN","b":NaN}"#, Some(r#"{"NaN":"\"NaN","b":null}"#)),
            (r#"{"a":"NaN"}"#, None),
            (r#"{"a":"\"#, None),
        ];
        for (text, expected) in cases {
            assert_eq!(to_null(text.as_bytes()).as_deref(), expected.map(str::as_bytes), "{text}");
        }
    }
}
