//! The functions that a guest exports, whatever version of the contract it speaks.

use wasmtime::{
    Result, Store,
    component::{ComponentExportIndex, ComponentType, Instance, InstancePre, Lift},
};

use super::{
    bindings::{
        v0_1::{self, tickhound::detector::types as types_0_1},
        v0_2::{self, tickhound::detector::types as types_0_2},
    },
    contract::ContractVersion,
    detection::{Detection, Gate, Judgment},
    guest::Guest,
    manifest::Manifest,
    params::Params,
    value::Value,
};
use tickhound_core::event::Direction;

/// The export that explains detections, which a detector need not have.
const PROBE: &str = "probe";

/// A compiled guest that is ready to be instantiated.
pub(super) enum ExportsPre {
    V0_1(v0_1::DetectorPre<Guest>),
    V0_2 {
        pre: v0_2::DetectorPre<Guest>,
        /// The export [`PROBE`], if there is one.
        probe: Option<ComponentExportIndex>,
    },
}

/// The functions of a guest that is instantiated.
pub(super) enum Exports {
    V0_1(v0_1::Detector),
    V0_2 { detector: v0_2::Detector, instance: Instance, probe: Option<ComponentExportIndex> },
}

/// A symbol that is introduced.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct NewSymbol<'a> {
    pub(super) id: u32,
    pub(super) name: &'a str,
    /// The texts that the plugin asks for, in the order of its manifest.
    pub(super) texts: Vec<Option<String>>,
}

/// A group that is introduced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct NewGroup<'a> {
    pub(super) id: u32,
    pub(super) name: &'a str,
}

/// Ticks by column, as contract 0.1 takes them.
#[derive(Clone, Copy, Debug)]
pub(super) struct TickLists<'a> {
    pub(super) symbols: &'a [u32],
    pub(super) times: &'a [u64],
    pub(super) prices: &'a [f64],
    pub(super) columns: &'a [&'a [f64]],
}

/// What `probe` returns.
#[derive(ComponentType, Lift)]
#[component(record)]
struct ProbeJudgment {
    row: u32,
    owner: u32,
    gates: Vec<ProbeGate>,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct ProbeGate {
    name: String,
    value: f64,
    limit: f64,
    holds: bool,
}

impl ExportsPre {
    /// Returns the exports of a component that speaks this version.
    ///
    /// # Errors
    /// Names what differs from the contract.
    pub(super) fn new(version: ContractVersion, pre: InstancePre<Guest>) -> Result<Self> {
        Ok(match version {
            ContractVersion::V0_1 => Self::V0_1(v0_1::DetectorPre::new(pre)?),
            ContractVersion::V0_2 => {
                let probe = pre.component().get_export_index(None, PROBE);
                Self::V0_2 { pre: v0_2::DetectorPre::new(pre)?, probe }
            }
        })
    }

    /// Returns the version of the contract.
    pub(super) fn version(&self) -> ContractVersion {
        match self {
            Self::V0_1(_) => ContractVersion::V0_1,
            Self::V0_2 { .. } => ContractVersion::V0_2,
        }
    }

    /// Returns whether the guest exports `probe`.
    pub(super) fn can_probe(&self) -> bool {
        matches!(self, Self::V0_2 { probe: Some(_), .. })
    }

    pub(super) fn instantiate(&self, store: &mut Store<Guest>) -> Result<Exports> {
        Ok(match self {
            Self::V0_1(pre) => Exports::V0_1(pre.instantiate(store)?),
            Self::V0_2 { pre, probe } => {
                let instance = pre.instance_pre().instantiate(&mut *store)?;
                Exports::V0_2 { detector: v0_2::Detector::new(store, &instance)?, instance, probe: *probe }
            }
        })
    }
}

impl Exports {
    pub(super) fn describe(&self, store: &mut Store<Guest>) -> Result<Manifest> {
        Ok(match self {
            Self::V0_1(guest) => guest.call_describe(store)?.into(),
            Self::V0_2 { detector, .. } => detector.call_describe(store)?.into(),
        })
    }

    /// Configures the guest, and returns how long it warms up in seconds, or why it rejects its parameters.
    pub(super) fn configure(&self, store: &mut Store<Guest>, params: &Params) -> Result<Result<f64, String>> {
        Ok(match self {
            Self::V0_1(guest) => {
                let params: Vec<_> = params.iter().map(|(name, value)| (name.as_str(), value.into())).collect();
                guest.call_configure(store, &params)?.map(|readiness| readiness.warm_up_seconds)
            }
            Self::V0_2 { detector, .. } => {
                let params: Vec<_> = params.iter().map(|(name, value)| (name.clone(), value.into())).collect();
                detector.call_configure(store, &params)?.map(|readiness| readiness.warm_up_seconds)
            }
        })
    }

    /// Introduces symbols and groups, of which contract 0.1 has none.
    pub(super) fn introduce(
        &self,
        store: &mut Store<Guest>,
        symbols: &[NewSymbol<'_>],
        groups: &[NewGroup<'_>],
    ) -> Result<()> {
        match self {
            Self::V0_1(guest) => {
                let symbols: Vec<_> =
                    symbols.iter().map(|NewSymbol { id, name, .. }| types_0_1::Symbol { id: *id, name }).collect();
                guest.call_introduce(store, &symbols)
            }
            Self::V0_2 { detector, .. } => {
                let symbols: Vec<_> = symbols
                    .iter()
                    .map(|NewSymbol { id, name, texts }| types_0_2::Symbol {
                        id: *id,
                        name: (*name).to_owned(),
                        texts: texts.clone(),
                    })
                    .collect();
                let groups: Vec<_> = groups
                    .iter()
                    .map(|NewGroup { id, name }| types_0_2::Group { id: *id, name: (*name).to_owned() })
                    .collect();
                detector.call_introduce(store, &symbols, &groups)
            }
        }
    }

    pub(super) fn save(&self, store: &mut Store<Guest>, owners: &[u32]) -> Result<Vec<(u32, Vec<u8>)>> {
        Ok(match self {
            Self::V0_1(guest) => {
                let states = guest.call_save(store, owners)?;
                states.into_iter().map(|saved| (saved.symbol, saved.state)).collect()
            }
            Self::V0_2 { detector, .. } => {
                let states = detector.call_save(store, owners)?;
                states.into_iter().map(|saved| (saved.owner, saved.state)).collect()
            }
        })
    }

    /// Restores states. The inner error is the guest's reason for rejecting them.
    pub(super) fn restore(
        &self,
        store: &mut Store<Guest>,
        state_version: u32,
        states: &[(u32, &[u8])],
    ) -> Result<Result<(), String>> {
        match self {
            Self::V0_1(guest) => {
                let states: Vec<_> = states
                    .iter()
                    .map(|(symbol, state)| types_0_1::SymbolStateParam { symbol: *symbol, state })
                    .collect();
                guest.call_restore(store, state_version, &states)
            }
            Self::V0_2 { detector, .. } => {
                let states: Vec<_> = states
                    .iter()
                    .map(|(owner, state)| types_0_2::SavedState { owner: *owner, state: state.to_vec() })
                    .collect();
                detector.call_restore(store, state_version, &states)
            }
        }
    }
}

/// Has a guest of contract 0.1 process ticks.
pub(super) fn detect_lists(
    guest: &v0_1::Detector,
    store: &mut Store<Guest>,
    ticks: TickLists<'_>,
) -> Result<Vec<Detection>> {
    let TickLists { symbols, times, prices, columns } = ticks;
    let detections = guest.call_detect(store, types_0_1::Batch { symbols, times, prices, columns })?;
    Ok(detections.into_iter().map(Detection::from).collect())
}

/// Has a guest that can explain itself process packed rows, and returns what it has looked at.
pub(super) fn probe(
    (instance, probe): (&Instance, &ComponentExportIndex),
    store: &mut Store<Guest>,
    rows: u32,
    packed: &[u8],
) -> Result<Vec<Judgment>> {
    let function = instance.get_typed_func::<(u32, &[u8]), (Vec<ProbeJudgment>,)>(&mut *store, probe)?;
    let (judgments,) = function.call(store, (rows, packed))?;
    Ok(judgments.into_iter().map(Judgment::from).collect())
}

impl From<types_0_1::Detection> for Detection {
    fn from(found: types_0_1::Detection) -> Self {
        let types_0_1::Detection { row, symbol, confidence, direction, evidence } = found;
        let direction = match direction {
            types_0_1::Direction::Up => Direction::Up,
            types_0_1::Direction::Down => Direction::Down,
            types_0_1::Direction::None => Direction::None,
        };
        Self { row, owner: symbol, about: symbol, confidence, direction, members: Vec::new(), evidence }
    }
}

impl From<ProbeJudgment> for Judgment {
    fn from(ProbeJudgment { row, owner, gates }: ProbeJudgment) -> Self {
        let gate = |ProbeGate { name, value, limit, holds }| Gate { name, value, limit, holds };
        Self { row, owner, gates: gates.into_iter().map(gate).collect() }
    }
}

impl<'a> From<&'a Value> for types_0_1::ValueParam<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Flag(value) => Self::Flag(*value),
            Value::Integer(value) => Self::Integer(*value),
            Value::Number(value) => Self::Number(*value),
            Value::Text(value) => Self::Text(value),
        }
    }
}

impl From<&Value> for types_0_2::Value {
    fn from(value: &Value) -> Self {
        match value {
            Value::Flag(value) => Self::Flag(*value),
            Value::Integer(value) => Self::Integer(*value),
            Value::Number(value) => Self::Number(*value),
            Value::Text(value) => Self::Text(value.clone()),
        }
    }
}
