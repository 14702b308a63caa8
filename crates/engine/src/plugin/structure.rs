//! Checks the structure of a `.wasm` file before anything compiles it.
//!
//! What holds: a file that passes is small enough, shallow enough and has few enough parts that its parsing, compilation
//! and instantiation end. Nothing here calls itself for each level of the file, except wasmparser's reader of types, which
//! stops at a depth of 100. Compilers need far more than a parser, so this is the first of two walls; the second is the
//! process in which a plugin is compiled.

use anyhow::{Result, anyhow, bail, ensure};
use wasmparser::{
    BinaryReaderError, ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
    ComponentType, ComponentTypeDeclaration, ComponentTypeRef, Encoding, FunctionBody, Instance,
    InstanceTypeDeclaration, Parser, Payload, SectionLimited,
};

/// The maximum depth of components and modules within each other. Plugins of the SDK and a Python
/// interpreter have a depth of two.
const DEPTH_MAX: usize = 16;

/// The maximum number of types, aliases, imports, exports and instances that are described in all components of a file. A
/// plugin of the SDK has 120, a Python interpreter 9,910.
const DECLARATIONS_MAX: u64 = 100_000;

/// The maximum number of instances that the instantiation of a component makes, of components and of modules. A Python
/// interpreter with its adapters makes 40.
const INSTANCES_MAX: u64 = 256;

/// The maximum number of functions and global variables of all instances that the instantiation of a component makes. Each
/// takes the host 16 to 32 bytes in each worker, beside the limit on memory. A Python interpreter has 14,000.
const INSTANCE_PARTS_MAX: u64 = 500_000;

/// The maximum number of functions in all modules of a file. A Python interpreter has 13,488. The compiler took 45 s and
/// 4.8 GB for 900,000 empty ones.
const FUNCTIONS_MAX: u64 = 100_000;

/// The maximum number of local variables of a function. The compiler's work grows with the product of locals and blocks: a
/// loop over 5,000 locals took a minute. A Python interpreter has at most 271.
const LOCALS_MAX: u64 = 2000;

/// The maximum size of a function, bytes. The largest one of a Python interpreter has 427 kB.
const FUNCTION_BYTES_MAX: usize = 4 << 20;

/// The reason why a component that takes parts from elsewhere is rejected: what it would instantiate can't be counted.
const PASSED_PARTS: &str = "it passes components or modules to components, which no detector needs";

/// A component or module that is being read.
struct FilePart {
    encoding: Encoding,
    /// What an instantiation makes, itself included.
    size: InstanceSize,
    /// The same for each component that it can instantiate, by component index.
    components: Vec<InstanceSize>,
    /// The same for each module.
    modules: Vec<InstanceSize>,
}

/// What an instantiation makes.
#[derive(Clone, Copy, Default)]
struct InstanceSize {
    instances: u64,
    /// Functions and global variables.
    parts: u64,
}

impl InstanceSize {
    fn add(&mut self, other: Self) {
        self.instances = self.instances.saturating_add(other.instances);
        self.parts = self.parts.saturating_add(other.parts);
    }
}

/// Counts over the whole file.
#[derive(Default)]
struct Counts {
    declarations: u64,
    functions: u64,
}

/// Checks a file's structure.
///
/// # Errors
/// Names the limit that the file exceeds, or where it is damaged.
pub fn check(bytes: &[u8]) -> Result<()> {
    let mut scopes: Vec<FilePart> = Vec::new();
    let mut counts = Counts::default();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|error| damaged(&error))? {
            Payload::Version { encoding, .. } => {
                let size = InstanceSize { instances: 1, parts: 0 };
                scopes.push(FilePart { encoding, size, components: Vec::new(), modules: Vec::new() });
                ensure!(scopes.len() <= DEPTH_MAX, "it nests components more than {DEPTH_MAX} deep");
            }
            Payload::End(_) => {
                if let (Some(ended), Some(parent)) = (scopes.pop(), scopes.last_mut()) {
                    match ended.encoding {
                        Encoding::Component => parent.components.push(ended.size),
                        Encoding::Module => parent.modules.push(ended.size),
                    }
                }
            }
            payload => {
                counts.add(&payload)?;
                add_instances(&payload, &mut scopes)?;
            }
        }
    }
    Ok(())
}

impl Counts {
    fn add(&mut self, payload: &Payload<'_>) -> Result<()> {
        self.declarations += match payload {
            Payload::ComponentTypeSection(types) => {
                let mut count = 0;
                for component_type in types.clone() {
                    count += declarations(&component_type.map_err(|error| damaged(&error))?);
                }
                count
            }
            Payload::TypeSection(types) => {
                let mut count = 0;
                for group in types.clone() {
                    count += group.map_err(|error| damaged(&error))?.types().len() as u64;
                }
                count
            }
            Payload::CoreTypeSection(types) => types.count().into(),
            // A group of imports may have one name and many items.
            Payload::ImportSection(imports) => imports.clone().into_imports().count() as u64,
            Payload::ExportSection(exports) => exports.count().into(),
            Payload::InstanceSection(instances) => instances.count().into(),
            Payload::ComponentInstanceSection(instances) => instances.count().into(),
            Payload::ComponentAliasSection(aliases) => aliases.count().into(),
            Payload::ComponentCanonicalSection(functions) => functions.count().into(),
            Payload::ComponentImportSection(imports) => imports.count().into(),
            Payload::ComponentExportSection(exports) => exports.count().into(),
            _ => 0,
        };
        ensure!(
            self.declarations <= DECLARATIONS_MAX,
            "it has more than {DECLARATIONS_MAX} types, imports and exports"
        );
        match payload {
            Payload::CodeSectionStart { count, .. } => {
                self.functions += u64::from(*count);
                ensure!(self.functions <= FUNCTIONS_MAX, "it has more than {FUNCTIONS_MAX} functions");
                Ok(())
            }
            Payload::CodeSectionEntry(function) => check_function(function),
            _ => Ok(()),
        }
    }
}

/// Counts the declarations within a type. Its depth is bounded by the reader that it comes from.
fn declarations(component_type: &ComponentType<'_>) -> u64 {
    let within = match component_type {
        ComponentType::Component(declared) => declared
            .iter()
            .map(|declared| match declared {
                ComponentTypeDeclaration::Type(inner) => declarations(inner),
                _ => 1,
            })
            .sum(),
        ComponentType::Instance(declared) => declared
            .iter()
            .map(|declared| match declared {
                InstanceTypeDeclaration::Type(inner) => declarations(inner),
                _ => 1,
            })
            .sum(),
        _ => 0,
    };
    1 + within
}

fn check_function(function: &FunctionBody<'_>) -> Result<()> {
    let bytes = function.as_bytes().len();
    ensure!(bytes <= FUNCTION_BYTES_MAX, "it has a function of {bytes} bytes; {FUNCTION_BYTES_MAX} are allowed");
    let mut locals: u64 = 0;
    for group in function.get_locals_reader().map_err(|error| damaged(&error))? {
        let (count, _) = group.map_err(|error| damaged(&error))?;
        locals += u64::from(count);
        ensure!(
            locals <= LOCALS_MAX,
            "it has a function with more than {LOCALS_MAX} local variables; build it with optimizations"
        );
    }
    Ok(())
}

/// Counts what an instantiation of the innermost component makes. A component that instantiates another one ten times, which
/// instantiates a third one ten times, and so on, has as many instances as the product says.
fn add_instances(payload: &Payload<'_>, scopes: &mut [FilePart]) -> Result<()> {
    let Some((scope, outer)) = scopes.split_last_mut() else { return Ok(()) };
    match payload {
        Payload::CodeSectionStart { count, .. } => scope.size.parts += u64::from(*count),
        Payload::GlobalSection(globals) => scope.size.parts += u64::from(globals.count()),
        Payload::InstanceSection(instances) => {
            for instance in instances.clone() {
                if let Instance::Instantiate { module_index, .. } = instance.map_err(|error| damaged(&error))? {
                    scope.size.add(part(&scope.modules, module_index)?);
                }
            }
        }
        Payload::ComponentInstanceSection(instances) => {
            for instance in instances.clone() {
                if let ComponentInstance::Instantiate { component_index, .. } =
                    instance.map_err(|error| damaged(&error))?
                {
                    scope.size.add(part(&scope.components, component_index)?);
                }
            }
        }
        Payload::ComponentAliasSection(aliases) => add_aliases(aliases, scope, outer)?,
        Payload::ComponentImportSection(imports) => {
            for import in imports.clone() {
                let import = import.map_err(|error| damaged(&error))?;
                let is_type = !matches!(import.ty, ComponentTypeRef::Component(_) | ComponentTypeRef::Module(_));
                ensure!(is_type, PASSED_PARTS);
            }
        }
        Payload::ComponentExportSection(exports) => {
            for export in exports.clone() {
                let export = export.map_err(|error| damaged(&error))?;
                // An export is a further part of the scope.
                match export.kind {
                    ComponentExternalKind::Component => scope.components.push(part(&scope.components, export.index)?),
                    ComponentExternalKind::Module => scope.modules.push(part(&scope.modules, export.index)?),
                    _ => {}
                }
            }
        }
        _ => {}
    }
    let InstanceSize { instances, parts } = scope.size;
    ensure!(instances <= INSTANCES_MAX, "it would make more than {INSTANCES_MAX} instances of its parts");
    ensure!(
        parts <= INSTANCE_PARTS_MAX,
        "its instances would have more than {INSTANCE_PARTS_MAX} functions and global variables"
    );
    Ok(())
}

/// Adds the components and modules that another scope has, and that this one may instantiate under an alias.
fn add_aliases(
    aliases: &SectionLimited<'_, ComponentAlias<'_>>,
    scope: &mut FilePart,
    outer: &[FilePart],
) -> Result<()> {
    for alias in aliases.clone() {
        match alias.map_err(|error| damaged(&error))? {
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                let aliased = part(&up(scope, outer, count)?.components, index)?;
                scope.components.push(aliased);
            }
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreModule, count, index } => {
                let aliased = part(&up(scope, outer, count)?.modules, index)?;
                scope.modules.push(aliased);
            }
            ComponentAlias::InstanceExport {
                kind: ComponentExternalKind::Component | ComponentExternalKind::Module,
                ..
            } => bail!(PASSED_PARTS),
            _ => {}
        }
    }
    Ok(())
}

/// Returns the scope that is so many levels further out.
fn up<'a>(scope: &'a FilePart, outer: &'a [FilePart], count: u32) -> Result<&'a FilePart> {
    match (count as usize).checked_sub(1) {
        None => Ok(scope),
        Some(up) => outer.iter().rev().nth(up).ok_or_else(|| anyhow!("damaged: there is no scope so far out")),
    }
}

fn part(parts: &[InstanceSize], index: u32) -> Result<InstanceSize> {
    parts.get(index as usize).copied().ok_or_else(|| anyhow!("damaged: there is no component or module {index}"))
}

/// Some of the parser's own sentences have several lines.
fn damaged(error: &BinaryReaderError) -> anyhow::Error {
    let error = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    anyhow!("damaged or cut off, copy it again: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(bytes: &[u8]) -> String {
        check(bytes).unwrap_err().to_string()
    }

    fn rejection_of(text: &str) -> String {
        rejection(&wat::parse_str(text).unwrap())
    }

    fn leb(mut number: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let low = (number & 0x7f) as u8;
            number >>= 7;
            if number == 0 {
                bytes.push(low);
                return bytes;
            }
            bytes.push(low | 0x80);
        }
    }

    fn component_with_section(id: u8, contents: &[u8]) -> Vec<u8> {
        [b"\0asm\x0d\0\x01\0", &[id][..], &leb(contents.len()), contents].concat()
    }

    #[test]
    fn the_plugins_that_ship_pass() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut passed = 0;
        for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "wasm")) {
            check(&std::fs::read(&file).unwrap()).unwrap();
            passed += 1;
        }
        assert!(passed >= 8);
    }

    /// A file of 6 kB with types nested 2,000 deep overflowed the stack of the thread that compiled it, and ended the host.
    #[test]
    fn types_may_not_be_nested_deep() {
        // A type section with one type, which is an instance type with one declaration, which is such a type again.
        let contents = [vec![1], [0x42, 1, 1].repeat(2000), vec![0x7f]].concat();
        assert!(rejection(&component_with_section(7, &contents)).contains("nest"));
        let contents = [vec![1], [0x41, 1, 1].repeat(2000), vec![0x7f]].concat();
        assert!(rejection(&component_with_section(7, &contents)).contains("nest"));
    }

    /// Fuzzing found a rejection of nine lines, which looked like lines of the log.
    #[test]
    fn a_rejection_is_one_line() {
        let said = rejection(&component_with_section(1, b"$  'none"));
        assert!(said.contains("bad magic number - expected=[ 0x0, 0x61") && !said.contains('\n'), "{said}");
    }

    #[test]
    fn components_may_not_be_nested_deep() {
        let nested = (0..2000).fold(b"\0asm\x0d\0\x01\0".to_vec(), |inner, _| component_with_section(4, &inner));
        assert_eq!(rejection(&nested), "it nests components more than 16 deep");
    }

    /// 445 bytes ended the host, or took all memory.
    #[test]
    fn components_may_not_multiply() {
        let instances = |of: usize| format!("(instance (instantiate {of}))").repeat(10);
        let mut tower = "(component (core module) (core instance (instantiate 0)))".to_owned();
        for level in 0..9 {
            let alias = format!("(alias outer 1 {level} (component))");
            tower += &format!("(component {alias} {})", instances(0));
        }
        let text = format!("(component {tower} (instance (instantiate 9)))");
        assert_eq!(rejection_of(&text), "it would make more than 256 instances of its parts");
        let exported = "(component (component $a) (export $b \"b\" (component $a)) (instance (instantiate $b)))";
        check(&wat::parse_str(exported).unwrap()).unwrap();
    }

    #[test]
    fn a_component_may_not_be_handed_to_another() {
        let text = "(component (component (import \"c\" (component)) (instance (instantiate 0))))";
        assert_eq!(rejection_of(text), "it passes components or modules to components, which no detector needs");
    }

    /// Global variables are not in the memory of a guest, but take memory in each worker.
    #[test]
    fn global_variables_and_functions_are_counted_for_each_instance() {
        let globals = "(global i32 (i32.const 0))".repeat(20_000);
        let instances = |count: usize| "(core instance (instantiate 0))".repeat(count);
        let component = |count| wat::parse_str(format!("(component (core module {globals}) {})", instances(count)));
        check(&component(25).unwrap()).unwrap();
        let reason = "its instances would have more than 500000 functions and global variables";
        assert_eq!(rejection(&component(26).unwrap()), reason);
    }

    /// 900,000 empty functions took 45 s and 4.8 GB.
    #[test]
    fn functions_are_counted_over_all_modules() {
        let empty = |count: usize| {
            let mut module = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0".to_vec();
            let declared = [leb(count), vec![0; count]].concat();
            module.extend([vec![3], leb(declared.len()), declared].concat());
            let bodies = [leb(count), [2, 0, 0x0b].repeat(count)].concat();
            module.extend([vec![10], leb(bodies.len()), bodies].concat());
            module
        };
        assert_eq!(rejection(&empty(900_000)), "it has more than 100000 functions");
        let (module, mut two) = (empty(60_000), b"\0asm\x0d\0\x01\0".to_vec());
        check(&module).unwrap();
        for _ in 0..2 {
            two.extend([vec![1], leb(module.len()), module.clone()].concat());
        }
        assert_eq!(rejection(&two), "it has more than 100000 functions");
    }

    /// A loop over 5,000 local variables took a minute.
    #[test]
    fn local_variables_are_counted() {
        let text = format!("(module (func (local{})))", " i32".repeat(5000));
        assert_eq!(
            rejection_of(&text),
            "it has a function with more than 2000 local variables; build it with optimizations"
        );
        let text = format!("(module (func {}))", "(local i32) (local i64)".repeat(2500));
        assert!(rejection_of(&text).contains("local variables"));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let wasm =
            wat::parse_str("(component (core module (func (export \"f\"))) (core instance (instantiate 0)))").unwrap();
        for end in 0..wasm.len() {
            for byte in [0x00, 0x01, 0x40, 0x41, 0x7f, 0x80, 0xff] {
                let mut changed = wasm.clone();
                changed[end] = byte;
                let _ = check(&changed);
            }
            let _ = check(&wasm[..end]);
        }
    }
}
