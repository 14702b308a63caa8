#![doc = include_str!("../README.md")]

pub mod bars;
mod detector;
mod guest;
#[cfg(not(target_family = "wasm"))]
pub mod harness;
pub mod indicators;
mod instance;
mod manifest;
#[cfg(any(target_family = "wasm", test))]
mod panic;
mod params;
pub mod rank;
pub mod window;

pub use crate::{
    detector::{Clock, Detection, Detector, Direction, Tick, flag},
    manifest::{Column, Manifest, Param, Value},
};

use __private::bindings::tickhound::detector::types as contract;

/// The version of the contract that detectors built with this SDK speak.
///
/// Every detector carries it in its custom section `tickhound:contract`, so
/// that a host can refuse a file before it compiles it.
pub const CONTRACT_VERSION: &str = "0.1.0";

/// Makes the crate a detector: `detector!(Jump);` once, at its top level.
///
/// It exports the contract's functions from a WebAssembly build. Elsewhere it
/// only checks that the type is a [`Detector`], so tests build and link as usual.
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

/// What [`detector!`] expands to needs these; nothing here is for authors.
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
            world: "detector",
            pub_export_macro: true,
            export_macro_name: "export",
            additional_derives: [PartialEq],
        });
    }
}
