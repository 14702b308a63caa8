//! The anatomy of a `.wasm` file: what it shows without being run, whether or not a host would accept it.

use anyhow::{Result, anyhow, ensure};
use serde::Serialize;
use wasmparser::{ComponentTypeRef, Encoding, KnownCustom, Parser, Payload};

use tickhound_engine::plugin::runtime;

/// The maximum number of names in each list. A detector has a handful; what is beyond that is not shown.
const LISTED_MAX: usize = 200;

/// The maximum length of a name, characters.
const NAME_MAX: usize = 200;

/// The static properties of a file.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Anatomy {
    /// `component`, or `module`, which a host converts to a component.
    pub(crate) kind: &'static str,
    /// The size of the file.
    pub(crate) bytes: usize,
    /// The digest of the file, in hexadecimal.
    pub(crate) sha256: String,
    /// The version of the contract that the file was built for, if it says so.
    pub(crate) contract: Option<String>,
    /// The imports, without single types; a detector imports at most the types of the contract.
    pub(crate) imports: Vec<String>,
    /// The exports.
    pub(crate) exports: Vec<String>,
    /// The languages and tools that have recorded themselves in the file.
    pub(crate) made_with: Vec<String>,
}

impl Anatomy {
    /// Parses a file.
    ///
    /// # Errors
    /// When the file is not WebAssembly, or incomplete.
    pub(crate) fn of(bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.starts_with(b"\0asm"), "not a WebAssembly file");
        let sha256 = runtime::sha256(bytes);
        let mut anatomy = Self { kind: "module", bytes: bytes.len(), sha256, ..Self::default() };
        // Modules and components inside a component have imports and exports of their own.
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload.map_err(|error| anyhow!("damaged or cut off, copy it again: {error}"))?;
            anatomy.contract = anatomy.contract.or_else(|| runtime::built_for(&payload));
            match payload {
                Payload::Version { encoding: Encoding::Component, .. } if depth == 0 => anatomy.kind = "component",
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                Payload::ImportSection(imports) if depth == 0 => {
                    let imports = imports.into_imports().flatten();
                    let names =
                        imports.take(LISTED_MAX).map(|import| [shortened(import.module), shortened(import.name)]);
                    anatomy.imports.extend(names.map(|[module, name]| format!("{module}#{name}")));
                }
                Payload::ExportSection(exports) if depth == 0 => {
                    let exports = exports.into_iter().flatten().take(LISTED_MAX);
                    anatomy.exports.extend(exports.map(|export| shortened(export.name)));
                }
                Payload::ComponentImportSection(imports) if depth == 0 => {
                    let imports = imports.into_iter().flatten();
                    let imports = imports.filter(|import| !matches!(import.ty, ComponentTypeRef::Type(_)));
                    anatomy.imports.extend(imports.take(LISTED_MAX).map(|import| shortened(import.name.name)));
                }
                Payload::ComponentExportSection(exports) if depth == 0 => {
                    let exports = exports.into_iter().flatten().take(LISTED_MAX);
                    anatomy.exports.extend(exports.map(|export| shortened(export.name.name)));
                }
                Payload::CustomSection(section) => {
                    if let KnownCustom::Producers(fields) = section.as_known() {
                        for field in fields.into_iter().flatten() {
                            let room = LISTED_MAX.saturating_sub(anatomy.made_with.len());
                            let values = field.values.into_iter().flatten().take(room);
                            let tools = values.map(|value| [shortened(value.name), shortened(value.version)].join(" "));
                            anatomy.made_with.extend(tools.map(|tool| tool.trim().to_owned()));
                        }
                    }
                }
                _ => {}
            }
        }
        anatomy.made_with.sort();
        anatomy.made_with.dedup();
        Ok(anatomy)
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(NAME_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_shows_its_imports_and_exports() {
        let bytes = wat::parse_str(
            r#"(module (import "env" "now" (func)) (func (export "detect")) (memory (export "memory") 1)
                (@custom "tickhound:contract" "0.1.0"))"#,
        );
        let bytes = bytes.unwrap();
        let anatomy = Anatomy::of(&bytes).unwrap();
        assert_eq!((anatomy.kind, anatomy.bytes, anatomy.contract.as_deref()), ("module", bytes.len(), Some("0.1.0")));
        assert_eq!(
            (anatomy.imports, anatomy.exports),
            (vec!["env#now".to_owned()], vec!["detect".to_owned(), "memory".to_owned()])
        );
        assert!(Anatomy::of(&bytes[..bytes.len() - 3]).is_err());
        assert!(Anatomy::of(b"<html>").is_err());
    }

    #[test]
    fn a_component_shows_its_own_and_not_those_of_its_parts() {
        let text = r#"(component (import "a:b/types@1.0.0" (instance)) (core module (func (export "inner"))))"#;
        let anatomy = Anatomy::of(&wat::parse_str(text).unwrap()).unwrap();
        assert_eq!(
            (anatomy.kind, anatomy.imports, anatomy.exports),
            ("component", vec!["a:b/types@1.0.0".to_owned()], vec![])
        );
    }
}
