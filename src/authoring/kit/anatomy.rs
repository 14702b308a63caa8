//! What can be told of a `.wasm` file without running it, be it accepted or not.

use anyhow::{Result, anyhow};
use serde::Serialize;
use wasmparser::{ComponentTypeRef, Encoding, KnownCustom, Parser, Payload};

use tickhound_engine::plugin::runtime;

/// See above.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Anatomy {
    /// `component`, or `module`, which the host makes a component of.
    pub(crate) kind: &'static str,
    /// Size of the file.
    pub(crate) bytes: usize,
    /// Of the file, hexadecimal.
    pub(crate) sha256: String,
    /// Version of the contract that it was built for, where it says so.
    pub(crate) contract: Option<String>,
    /// What it takes from outside, single types apart; a detector takes the contract's types at most.
    pub(crate) imports: Vec<String>,
    /// What it offers.
    pub(crate) exports: Vec<String>,
    /// Languages and tools, as they have signed it.
    pub(crate) made_with: Vec<String>,
}

impl Anatomy {
    /// # Errors
    /// When it is not WebAssembly, or not whole.
    pub(crate) fn of(bytes: &[u8]) -> Result<Self> {
        let sha256 = runtime::sha256(bytes);
        let mut it = Self { kind: "module", bytes: bytes.len(), sha256, ..Self::default() };
        // Modules and components inside a component have imports and exports of their own.
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload.map_err(|error| anyhow!("not WebAssembly, or cut off: {error}"))?;
            it.contract = it.contract.or_else(|| runtime::built_for(&payload));
            match payload {
                Payload::Version { encoding: Encoding::Component, .. } if depth == 0 => it.kind = "component",
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                Payload::ImportSection(imports) if depth == 0 => {
                    let imports = imports.into_imports().flatten();
                    it.imports.extend(imports.map(|import| format!("{}#{}", import.module, import.name)));
                }
                Payload::ExportSection(exports) if depth == 0 => {
                    it.exports.extend(exports.into_iter().flatten().map(|export| export.name.to_owned()));
                }
                Payload::ComponentImportSection(imports) if depth == 0 => {
                    let imports = imports.into_iter().flatten();
                    let imports = imports.filter(|import| !matches!(import.ty, ComponentTypeRef::Type(_)));
                    it.imports.extend(imports.map(|import| import.name.name.to_owned()));
                }
                Payload::ComponentExportSection(exports) if depth == 0 => {
                    it.exports.extend(exports.into_iter().flatten().map(|export| export.name.name.to_owned()));
                }
                Payload::CustomSection(section) => {
                    if let KnownCustom::Producers(fields) = section.as_known() {
                        for field in fields.into_iter().flatten() {
                            let values = field.values.into_iter().flatten();
                            it.made_with.extend(
                                values.map(|value| format!("{} {}", value.name, value.version).trim().to_owned()),
                            );
                        }
                    }
                }
                _ => {}
            }
        }
        it.made_with.sort();
        it.made_with.dedup();
        Ok(it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_shows_what_it_takes_and_offers() {
        let bytes = wat::parse_str(
            r#"(module (import "env" "now" (func)) (func (export "detect")) (memory (export "memory") 1)
                (@custom "tickhound:contract" "0.1.0"))"#,
        );
        let bytes = bytes.unwrap();
        let it = Anatomy::of(&bytes).unwrap();
        assert_eq!((it.kind, it.bytes, it.contract.as_deref()), ("module", bytes.len(), Some("0.1.0")));
        assert_eq!(
            (it.imports, it.exports),
            (vec!["env#now".to_owned()], vec!["detect".to_owned(), "memory".to_owned()])
        );
        assert!(Anatomy::of(&bytes[..bytes.len() - 3]).is_err());
        assert!(Anatomy::of(b"<html>").is_err());
    }

    #[test]
    fn a_component_shows_its_own_and_not_those_of_its_parts() {
        let text = r#"(component (import "a:b/types@1.0.0" (instance)) (core module (func (export "inner"))))"#;
        let it = Anatomy::of(&wat::parse_str(text).unwrap()).unwrap();
        assert_eq!((it.kind, it.imports, it.exports), ("component", vec!["a:b/types@1.0.0".to_owned()], vec![]));
    }
}
