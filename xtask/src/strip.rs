//! Removes the custom sections of a component, which only tools read: names, producers, features.
//!
//! What holds: only custom sections are removed, at every level, so the code and the types stay the same. These
//! sections are also what may differ between two builds.

use anyhow::{Context, Result, ensure};

/// Read by the host before it compiles a plugin.
pub(crate) const CONTRACT: &str = "tickhound:contract";

/// Magic and version, the same length for a module and a component.
const HEADER: usize = 8;

const CUSTOM: u8 = 0;
const CORE_MODULE: u8 = 1;
const NESTED_COMPONENT: u8 = 4;

/// Layer, in the last two bytes of the version field, of a component; a module has 0.
const COMPONENT_LAYER: &[u8] = &[1, 0];

/// The same module or component without custom sections, but for [`CONTRACT`].
///
/// # Errors
/// When the bytes are not WebAssembly.
pub(crate) fn strip(wasm: &[u8]) -> Result<Vec<u8>> {
    ensure!(wasm.len() >= HEADER && wasm.starts_with(b"\0asm"), "not WebAssembly");
    let (header, mut rest) = wasm.split_at(HEADER);
    let is_component = header.ends_with(COMPONENT_LAYER);
    let mut stripped = header.to_vec();
    while let Some((&id, after_id)) = rest.split_first() {
        let (body, after) = sized(after_id)?;
        match id {
            CUSTOM if sized(body)?.0 != CONTRACT.as_bytes() => {}
            CORE_MODULE | NESTED_COMPONENT if is_component => push(&mut stripped, id, &strip(body)?),
            _ => push(&mut stripped, id, body),
        }
        rest = after;
    }
    Ok(stripped)
}

/// Splits off the bytes whose LEB128 length stands in front.
fn sized(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let mut length = 0_usize;
    for (at, byte) in bytes.iter().take(5).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return bytes[at + 1..].split_at_checked(length).context("a section is cut off");
        }
    }
    anyhow::bail!("a section has no length")
}

fn push(wasm: &mut Vec<u8>, id: u8, body: &[u8]) {
    wasm.push(id);
    let mut length = body.len();
    while length >= 0x80 {
        wasm.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    wasm.push(length as u8);
    wasm.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(id: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        push(&mut bytes, id, body);
        bytes
    }

    fn custom(name: &str, data: &[u8]) -> Vec<u8> {
        section(CUSTOM, &[&[name.len() as u8], name.as_bytes(), data].concat())
    }

    #[test]
    fn only_the_contract_is_left_of_the_custom_sections() {
        let module = b"\0asm\x01\0\0\0".as_slice();
        let component = b"\0asm\x0d\0\x01\0".as_slice();
        let long = section(10, &[7; 300]);
        let contract = custom(CONTRACT, b"0.1.0");
        let before = [module, &custom("producers", &[1; 200]), &long, &contract, &custom("name", b"f")].concat();
        let after = [module, &long, &contract].concat();
        assert_eq!(strip(&before).unwrap(), after);

        let types = section(7, b"types");
        let nested = [component, &section(CORE_MODULE, &before), &types, &custom("producers", b"x")].concat();
        let expected = [component, &section(CORE_MODULE, &after), &types].concat();
        assert_eq!(strip(&nested).unwrap(), expected);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        assert!(strip(b"\0asm\x01\0\0\0\x0a\x7f").is_err());
        assert!(strip(b"\0asm\x01\0\0\0\x0a").is_err());
        assert!(strip(b"hello").is_err());
    }
}
