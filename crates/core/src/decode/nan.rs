//! JSON as Python's `json.dumps` writes numbers that are none: `NaN`, `Infinity`, `-Infinity`.

/// The tokens that JSON does not know.
const TOKENS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];

/// The text with each of them as `null`, or `None` if it has none of them outside strings.
pub(super) fn to_null(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(text.len());
    let (mut found, mut in_string) = (false, false);
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        if !in_string && let Some(token) = TOKENS.iter().find(|token| rest.starts_with(token)) {
            found = true;
            plain.extend_from_slice(b"null");
            rest = &rest[token.len()..];
            continue;
        }
        plain.push(*first);
        rest = after;
        match first {
            b'"' => in_string = !in_string,
            b'\\' => {
                if let Some((escaped, after)) = rest.split_first() {
                    plain.push(*escaped);
                    rest = after;
                }
            }
            _ => {}
        }
    }
    found.then_some(plain)
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
