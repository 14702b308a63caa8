//! Files that are given as plugins: bytes, damaged plugins, generated components and modules, and towers that are small as
//! files and large as programs.

// The one file that reads a plugin before anything compiles it, without the engine and wasmtime.
#[path = "../../crates/engine/src/plugin/structure.rs"]
mod structure;

use std::thread;

use arbitrary::{Result, Unstructured};
use wasm_encoder::{
    CodeSection, Component, ComponentInstanceSection, ComponentTypeSection, Function, FunctionSection, Module,
    ModuleSection, NestedComponentSection, PrimitiveValType, RawSection, TypeSection, ValType,
};
use wasmparser_of_wasmtime::{Validator, WasmFeatures};

/// A plugin that ships.
const PLUGIN: &[u8] = include_bytes!("../../plugins/gap.wasm");

/// The stack of the thread that reads a file: a file that is accepted must not need more. The host's threads have twice this.
const STACK_BYTES: usize = 1 << 20;

/// The deepest tower that is built.
const DEPTH_MAX: usize = 5000;

/// The most parts of one kind that are built, such as functions.
const PARTS_MAX: usize = 100_000;

/// The section of a component that holds types.
const TYPE_SECTION: u8 = 7;

/// Checks that a file is accepted or rejected with a sentence before it is read deeply, and that one that was accepted can be
/// read deeply on a small stack.
pub fn loader(bytes: &[u8]) {
    let Ok(file) = file(&mut Unstructured::new(bytes)) else { return };
    let reading = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || read(&file));
    reading.expect("failed to start a thread").join().expect("reading a file ends without a panic");
}

fn read(file: &[u8]) {
    match structure::check(file) {
        Ok(()) => drop(Validator::new_with_features(WasmFeatures::all()).validate_all(file)),
        Err(error) => {
            let error = format!("{error:#}");
            assert!(!error.is_empty() && error.len() < 1000 && !error.chars().any(char::is_control), "{error}");
        }
    }
}

fn file(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    match u.int_in_range(0..=9)? {
        0 => Ok(u.bytes(u.len())?.to_vec()),
        1 | 2 => damaged(u),
        3 => Ok(wasm_smith::Component::new(wasm_smith::Config::default(), u)?.to_bytes()),
        4 => Ok(wasm_smith::Module::new(u.arbitrary::<wasm_smith::Config>()?, u)?.to_bytes()),
        5 => nested_types(u),
        6 => doubling_types(u),
        7 => nested_components(u),
        8 => many_functions(u),
        _ => many_locals(u),
    }
}

/// A plugin with some of its bytes replaced, repeated or cut off.
fn damaged(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut file = PLUGIN.to_vec();
    for _ in 0..u.int_in_range(1..=8)? {
        let at = u.int_in_range(0..=file.len().saturating_sub(1))?;
        match u.int_in_range(0..=3)? {
            0 => file.truncate(at),
            1 => {
                let end = file.len().min(at + u.int_in_range(0..=4096)?);
                let part = file[at..end].to_vec();
                file.splice(at..at, part);
            }
            2 => {
                let end = file.len().min(at + u.int_in_range(0..=64)?);
                file.drain(at..end);
            }
            _ => {
                let part: [u8; 5] = u.arbitrary()?;
                let end = file.len().min(at + part.len());
                file[at..end].copy_from_slice(&part[..end - at]);
            }
        }
        if file.is_empty() {
            break;
        }
    }
    Ok(file)
}

/// Types of components and instances, each declared within the one around it.
fn nested_types(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    const COMPONENT_TYPE: u8 = 0x41;
    const INSTANCE_TYPE: u8 = 0x42;
    const DECLARES_A_TYPE: u8 = 0x01;
    let depth = u.int_in_range(0..=DEPTH_MAX)?;
    let kinds: u64 = u.arbitrary()?;
    // The number of types in the section, and then each with one declaration; the innermost has none.
    let mut types = vec![1];
    for level in 0..depth {
        let kind = if kinds >> (level % 64) & 1 == 0 { COMPONENT_TYPE } else { INSTANCE_TYPE };
        types.extend([kind, 1, DECLARES_A_TYPE]);
    }
    types.extend([COMPONENT_TYPE, 0]);
    let mut component = Component::new();
    component.section(&RawSection { id: TYPE_SECTION, data: &types });
    Ok(component.finish())
}

/// Tuples of the tuple before, so that each level has several times as many values as the one below.
fn doubling_types(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let (levels, width) = (u.int_in_range(1..=1000)?, u.int_in_range(1..=20)?);
    let mut types = ComponentTypeSection::new();
    types.defined_type().primitive(PrimitiveValType::U64);
    for level in 0..levels {
        types.defined_type().tuple(vec![wasm_encoder::ComponentValType::Type(level); width]);
    }
    let mut component = Component::new();
    component.section(&types);
    Ok(component.finish())
}

/// Components that each instantiate the one within them several times.
fn nested_components(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let (depth, times) = (u.int_in_range(0..=200)?, u.int_in_range(1..=20)?);
    let mut inner = Component::new();
    inner.section(&ModuleSection(&Module::new()));
    for _ in 0..depth {
        let mut instances = ComponentInstanceSection::new();
        for _ in 0..times {
            instances.instantiate::<[(&str, wasm_encoder::ComponentExportKind, u32); 0], &str>(0, []);
        }
        let mut outer = Component::new();
        outer.section(&NestedComponentSection(&inner));
        outer.section(&instances);
        inner = outer;
    }
    Ok(inner.finish())
}

fn many_functions(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let count = u.int_in_range(0..=PARTS_MAX)?;
    let (mut functions, mut code) = (FunctionSection::new(), CodeSection::new());
    let mut empty = Function::new([]);
    empty.instructions().end();
    for _ in 0..count {
        functions.function(0);
        code.function(&empty);
    }
    Ok(module(&functions, &code))
}

/// One function with many locals, in groups of different types or one large group.
fn many_locals(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let groups = u.int_in_range(0..=PARTS_MAX)?;
    let each = u.int_in_range(0..=u32::MAX)?;
    let types = [ValType::I32, ValType::F64];
    let mut function = Function::new((0..groups).map(|group| (each, types[group % 2])));
    function.instructions().end();
    let (mut functions, mut code) = (FunctionSection::new(), CodeSection::new());
    functions.function(0);
    code.function(&function);
    Ok(module(&functions, &code))
}

/// A module whose functions neither take nor return anything.
fn module(functions: &FunctionSection, code: &CodeSection) -> Vec<u8> {
    let mut types = TypeSection::new();
    types.ty().function([], []);
    let mut module = Module::new();
    module.section(&types).section(functions).section(code);
    module.finish()
}
