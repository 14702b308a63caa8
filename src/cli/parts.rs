//! What a host is made of, loaded and checked as the configuration says.

use anyhow::Result;

use crate::notify;
use tickhound_core::{config::LoadedConfig, decode::Decoder, market::Market};
use tickhound_engine::plugin::{Isolation, Loader};
use tickhound_recorded::read_reference;
use tickhound_redis::RedisStream;

/// The parts that the configuration describes, loaded and checked.
pub(super) struct Parts {
    pub(super) decoder: Decoder,
    pub(super) loader: Loader,
    pub(super) stream: RedisStream,
}

impl Parts {
    pub(super) fn load(loaded: &LoadedConfig) -> Result<Self> {
        let config = &loaded.config;
        let decoder = Decoder::new(&config.input, &loaded.root)?;
        let loader = Loader::start(loaded, decoder.column_names(), complete, Isolation::of(&loaded.config.plugins))?;
        let has_shadows = loader.newest().detectors.iter().any(|spec| !spec.settings.shadow_of.is_empty());
        let stream = RedisStream::new(&config.stream, &config.alerts, &config.dead_letters)?.with_shadows(has_shadows);
        Ok(Self { decoder, loader, stream })
    }
}

/// Reads and checks those parts of a configuration that the engine does not know.
fn complete(loaded: &mut LoadedConfig, before: Option<&Market>) -> Result<()> {
    loaded.load_market(read_reference, before)?;
    notify::check(loaded).map(|_| ())
}
