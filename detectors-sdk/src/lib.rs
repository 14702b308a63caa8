#![doc = include_str!("../README.md")]

pub mod bars;
mod detector;
mod gates;
mod guest;
#[cfg(not(target_family = "wasm"))]
pub mod harness;
pub mod indicators;
mod instance;
mod manifest;
mod members;
mod packed;
#[cfg(any(target_family = "wasm", test))]
mod panic;
mod params;
pub mod rank;
mod row;
mod shape;
pub mod window;

pub use crate::{
    detector::{Detection, Detector, Direction, flag},
    gates::Gates,
    manifest::{Column, Computed, Feed, Length, Manifest, Param, Scope, Value, Wake},
    members::{ByMember, Member},
    row::{Bar, Clock, Snapshot, Tick},
};

use __private::bindings::tickhound::detector::types as contract;

/// The version of the contract that detectors built with this SDK implement.
///
/// Each detector has it in its custom section `tickhound:contract`, so that a host can reject a file before compiling it.
///
/// ```
/// assert_eq!(tickhound_sdk::CONTRACT_VERSION.split('.').count(), 3);
/// ```
pub const CONTRACT_VERSION: &str = "0.2.0";

/// Makes the crate a detector. Call it once, at the top level of the crate.
///
/// In a WebAssembly build it exports the functions of the contract. In other builds it only checks that the type is a
/// [`Detector`], so that tests build and link as usual.
///
/// ```
/// use tickhound_sdk::{Detection, Detector, Manifest, Tick, detector};
///
/// struct Round;
///
/// impl Detector for Round {
///     type Params = ();
///     type State = ();
///
///     fn manifest() -> Manifest {
///         Manifest::new("round", "1.0.0", "Reports a price that is a multiple of 100.")
///     }
///
///     fn new((): ()) -> Result<Self, String> {
///         Ok(Self)
///     }
///
///     fn on_tick(&self, (): &mut (), tick: &Tick<'_>) -> Option<Detection> {
///         (tick.price % 100.0 == 0.0).then(|| Detection::neutral(0.5))
///     }
/// }
///
/// detector!(Round);
/// ```
#[macro_export]
macro_rules! detector {
    ($detector:ty) => {
        const _: () = {
            struct Plugin;

            impl $crate::__private::Plugin for Plugin {
                type Detector = $detector;

                fn with<R>(call: impl FnOnce(&mut $crate::__private::Instance<$detector>) -> R) -> R {
                    ::std::thread_local! {
                        static INSTANCE: ::core::cell::RefCell<$crate::__private::Instance<$detector>> =
                            const { ::core::cell::RefCell::new($crate::__private::Instance::new()) };
                    }
                    INSTANCE.with(|instance| call(&mut instance.borrow_mut()))
                }
            }

            // Uses the type as the exports do, so that no part of it counts as dead code.
            #[cfg(not(target_family = "wasm"))]
            const _: fn() =
                || <Plugin as $crate::__private::Plugin>::with(|_: &mut $crate::__private::Instance<$detector>| ());

            #[cfg(target_family = "wasm")]
            $crate::__private::bindings::export! { Plugin with_types_in $crate::__private::bindings }

            #[cfg(target_family = "wasm")]
            #[used]
            #[unsafe(link_section = "tickhound:contract")]
            static CONTRACT: [u8; $crate::CONTRACT_VERSION.len()] = $crate::__private::contract();
        };
    };
}

/// Used by the expansion of [`detector!`], not by authors.
#[doc(hidden)]
pub mod __private {
    pub use crate::{guest::Plugin, instance::Instance};

    /// [`crate::CONTRACT_VERSION`] as the bytes of a custom section.
    pub const fn contract() -> [u8; crate::CONTRACT_VERSION.len()] {
        match crate::CONTRACT_VERSION.as_bytes().first_chunk() {
            Some(bytes) => *bytes,
            None => unreachable!(),
        }
    }

    #[allow(
        missing_docs,
        unreachable_pub,
        unsafe_code,
        clippy::all,
        reason = "generated from the WIT, which documents it"
    )]
    pub mod bindings {
        wit_bindgen::generate!({
            path: "wit",
            world: "explaining-detector",
            pub_export_macro: true,
            export_macro_name: "export",
            additional_derives: [PartialEq],
        });
    }
}
