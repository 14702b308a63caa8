//! What Python's `str` makes of a dict or a list: `{'buy': [{'price': 101.0}], 'sell': None}`. Producers that write each value
//! of a tick as a text write nested ones so.

/// Whether a text looks like one of these, and not like JSON: its first string has single quotes.
pub(super) fn is_repr(text: &str) -> bool {
    text.trim_start_matches(['{', '[', ' ']).starts_with('\'')
}

/// The same value as JSON; `None` if the text is none, or contains what JSON has no form for. A call, such as that of
/// `datetime.datetime(…)`, becomes null.
pub(super) fn to_json(text: &str) -> Option<String> {
    let mut json = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        match first {
            '\'' | '"' => rest = string(&rest[1..], first, &mut json)?,
            'A'..='Z' | 'a'..='z' | '_' => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.').unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                rest = after;
                match word {
                    "True" => json.push_str("true"),
                    "False" => json.push_str("false"),
                    "None" | "nan" => json.push_str("null"),
                    "inf" => {
                        // The sign is copied already.
                        json.truncate(json.trim_end_matches('-').len());
                        json.push_str("null");
                    }
                    _ => {
                        rest = after_call(rest)?;
                        json.push_str("null");
                    }
                }
            }
            '(' => return None,
            _ => {
                // A number is copied with its exponent, which has a letter.
                let is_number = first.is_ascii_digit();
                let end = rest.find(|c: char| !is_number || !c.is_ascii_digit() && !".eE+-".contains(c));
                let end = end.filter(|end| *end > 0).unwrap_or(if is_number { rest.len() } else { first.len_utf8() });
                json.push_str(&rest[..end]);
                rest = &rest[end..];
            }
        }
    }
    Some(json)
}

/// Copies a string whose opening quote is read; returns what follows it.
fn string<'t>(text: &'t str, quote: char, json: &mut String) -> Option<&'t str> {
    json.push('"');
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => {
                json.push('"');
                return Some(&text[at + 1..]);
            }
            '"' => json.push_str("\\\""),
            '\\' => match chars.next()?.1 {
                '\'' => json.push('\''),
                'x' => json.push_str("\\u00"),
                escaped @ ('"' | '\\' | 'n' | 'r' | 't' | 'u') => json.extend(['\\', escaped]),
                _ => return None,
            },
            c => json.push(c),
        }
    }
    None
}

/// What follows the parentheses of a call.
fn after_call(text: &str) -> Option<&str> {
    let mut rest = text.strip_prefix('(')?;
    let (mut depth, mut ignored) = (1, String::new());
    while depth > 0 {
        let at = rest.find(['(', ')', '\'', '"'])?;
        let found = rest[at..].chars().next()?;
        rest = &rest[at + 1..];
        match found {
            '(' => depth += 1,
            ')' => depth -= 1,
            quote => rest = string(rest, quote, &mut ignored)?,
        }
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_writes_becomes_json() {
        for (repr, expected) in [
            ("{'buy': [{'price': 101.05, 'n': 2}], 'sell': []}", r#"{"buy": [{"price": 101.05, "n": 2}], "sell": []}"#),
            ("{'a': None, 'b': True, 'c': False}", r#"{"a": null, "b": true, "c": false}"#),
            ("{'a': nan, 'b': -inf, 'c': inf, 'd': -1e-05}", r#"{"a": null, "b": null, "c": null, "d": -1e-05}"#),
            (r#"{'it\'s': "it's", 'q': '"', 'x': '\x1b\n\\'}"#, r#"{"it's": "it's", "q": "\"", "x": "\u001b\n\\"}"#),
            ("{'at': datetime.datetime(2025, 1, 1, tzinfo=f(')')), 'p': 1}", r#"{"at": null, "p": 1}"#),
            ("['é', 'None']", r#"["é", "None"]"#),
        ] {
            assert!(is_repr(repr), "{repr}");
            let json = to_json(repr).unwrap();
            assert_eq!(json, expected);
            serde_json::from_str::<serde_json::Value>(&json).unwrap();
        }
    }

    #[test]
    fn other_texts_are_no_values() {
        for text in ["{'a", "{'a': (1, 2)}", "{'a': f(", "{'a': f('}", r"{'a': '\U0001f600'}", "{'a': name}"] {
            assert_eq!(to_json(text), None, "{text}");
        }
        for json in [r#"{"a":'1'}"#, "[1, 'a']", "{}", "[]", "", "{"] {
            assert!(!is_repr(json), "{json}");
        }
    }
}
