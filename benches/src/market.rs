//! The ticks that are measured on: those of the simulated market, as a producer would publish them.

use anyhow::{Context, Result};
use tickhound_core::simulate::{Layout, Renderer, SimConfig, Simulator};

use crate::{
    server::STREAM,
    wire::{Commands, Wire},
};

/// Commands on their way at once.
const AT_ONCE: u64 = 1000;

/// A market, tick by tick.
pub(crate) struct Market {
    simulator: Simulator,
    renderer: Renderer,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// Event time of the last tick, ms.
    time_ms: u64,
}

impl Market {
    /// Without faults: those would be left out by one and not by another.
    pub(crate) fn new(symbols: usize, rate: f64, layout: Layout) -> Self {
        let config = SimConfig { symbols, rate, dirt: 0.0, ..SimConfig::default() };
        Self { simulator: Simulator::new(&config), renderer: Renderer::new(layout), fields: Vec::new(), time_ms: 0 }
    }

    /// Begins the command that publishes the next tick under `id`, with `options` of XADD before it.
    pub(crate) fn publish(&mut self, commands: &mut Commands, options: &[&str], id: &str) -> Result<()> {
        let tick = self.simulator.next().context("the simulated market never ends")?;
        let instrument = &self.simulator.instruments()[tick.instrument as usize];
        self.time_ms = tick.time / 1_000_000;
        self.fields.clear();
        self.renderer.render(instrument, &tick, |name, value| self.fields.push((name.to_vec(), value.to_vec())));
        commands.begin(3 + options.len() + 2 * self.fields.len());
        for word in ["XADD", STREAM].iter().chain(options).chain([&id]) {
            commands.word(word.as_bytes());
        }
        for (name, value) in &self.fields {
            commands.word(name);
            commands.word(value);
        }
        Ok(())
    }

    /// A tick of this symbol, at the time of the last one.
    pub(crate) fn publish_other(&self, commands: &mut Commands, symbol: &str, id: &str) {
        let time = self.time_ms.to_string();
        let words = ["XADD", STREAM, id, "symbol", symbol, "last_price", "100", "exchange_timestamp_ms", &time];
        commands.command(&words.map(str::as_bytes));
    }

    /// Publishes so many ticks as fast as it goes.
    pub(crate) fn publish_many(&mut self, wire: &mut Wire, options: &[&str], count: u64) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let now = left.min(AT_ONCE);
            for _ in 0..now {
                self.publish(&mut wire.output, options, "*")?;
            }
            wire.send()?;
            wire.skip_answers(now as usize)?;
            left -= now;
        }
        Ok(())
    }
}
