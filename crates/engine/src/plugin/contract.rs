//! The versions of the contract that this host speaks, and how a file's version is found.

use anyhow::{Result, ensure};
use wasmparser::{Parser, Payload};

/// The newest version that this host speaks, which is that of the WIT package of the SDK.
pub const CONTRACT_VERSION: &str = "0.2.0";

/// All versions that this host speaks.
pub const CONTRACT_VERSIONS: [&str; 2] = ["0.1.0", CONTRACT_VERSION];

/// The custom section in which the SDK writes the contract version that a plugin was built for.
const CONTRACT_SECTION: &str = "tickhound:contract";

/// The prefix of a component's type imports that is followed by the contract version.
const CONTRACT_TYPES: &str = "tickhound:detector/types@";

/// A version of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContractVersion {
    /// 0.1.0: symbols and ticks, a list for each column.
    V0_1,
    /// 0.2.0: scopes and feeds, one list for a call.
    V0_2,
}

impl ContractVersion {
    /// Returns the WIT package, for files that are described by the host.
    pub(super) fn wit(self) -> &'static str {
        match self {
            Self::V0_1 => include_str!("../../../../detectors-sdk/wit-0.1/detector.wit"),
            Self::V0_2 => include_str!("../../../../detectors-sdk/wit/detector.wit"),
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::V0_1 => CONTRACT_VERSIONS[0],
            Self::V0_2 => CONTRACT_VERSIONS[1],
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::V0_1, Self::V0_2].into_iter().find(|version| version.as_str() == text)
    }
}

/// Returns the version that a file says it was built for; `None` if it says none. This is also the first check of the bytes,
/// which rejects what is not WebAssembly, or was cut off.
///
/// # Errors
/// Fails when this host does not speak the version, so that nothing of it is compiled.
pub(super) fn stated_version(bytes: &[u8]) -> Result<Option<ContractVersion>> {
    ensure!(!bytes.is_empty(), "the file is empty; was it still being copied?");
    ensure!(bytes.starts_with(b"\0asm"), "not a WebAssembly file");
    let mut stated = None;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(|error| anyhow::anyhow!("damaged or cut off, copy it again: {error}"))?;
        let Some(built_for) = built_for(&payload) else { continue };
        let version = ContractVersion::parse(&built_for);
        ensure!(
            version.is_some(),
            "built for detector contract {}, this host speaks {}: rebuild it with the tickhound-sdk of this release",
            super::texts::shown(&built_for),
            CONTRACT_VERSIONS.join(" and ")
        );
        ensure!(
            stated.is_none() || stated == version,
            "built for two detector contracts, {} and {}",
            stated.map_or("", ContractVersion::as_str),
            built_for
        );
        stated = version;
    }
    Ok(stated)
}

/// Returns the contract version that a file was built for, if `payload` is the part that names it.
pub fn built_for(payload: &Payload<'_>) -> Option<String> {
    match payload {
        Payload::CustomSection(section) if section.name() == CONTRACT_SECTION => {
            Some(String::from_utf8_lossy(section.data()).into_owned())
        }
        Payload::ComponentImportSection(imports) => {
            let names = imports.clone().into_iter().filter_map(|import| import.ok());
            names.filter_map(|import| import.name.name.strip_prefix(CONTRACT_TYPES)).next().map(str::to_owned)
        }
        _ => None,
    }
}
