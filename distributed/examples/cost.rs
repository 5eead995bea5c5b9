//! The cost model of a step: bytes and latencies of a rank, for two models on 16 to 10,000 ranks.
//!
//! ```text
//! cargo run --example cost
//! cargo run --example cost -- 7e9 512 25e9 5e-6
//! ```
//!
//! Without arguments it prints the table of `COST.md`; with them one row: parameters, ranks, bytes a second of a rank's
//! link, seconds of a message. The formulas are in `COST.md`.

use std::error::Error;

/// A link of 200 Gbit/s, and a message in 5 microseconds.
const BANDWIDTH: f64 = 25e9;
const LATENCY: f64 = 5e-6;
/// Elements of a block of statistics, and its bytes on the way.
const BLOCK: f64 = 4096.0;
const BLOCK_BYTES: f64 = 20.0;
/// Bytes of an exchange, as by default.
const BUCKET: f64 = 32.0 * 1048576.0;

/// What a rank does in a step, with bf16 parameters and gradients summed in f32 on the way.
struct Cost {
    /// State of a rank with bf16 momentum.
    state: f64,
    reduction: f64,
    statistics: f64,
    parameters: f64,
    /// Messages that a rank waits for.
    messages: f64,
    seconds: f64,
}

impl Cost {
    fn new(parameters: f64, ranks: f64, bandwidth: f64, latency: f64) -> Self {
        // Of all that all ranks have, what this one does not have itself.
        let others = (ranks - 1.0) / ranks;
        let (reduction, gathered) = (4.0 * parameters * others, 2.0 * parameters * others);
        let statistics = parameters / BLOCK * BLOCK_BYTES * others;
        // A shard's part of a bucket is at least a block for each rank.
        let per_exchange = (BUCKET / ranks / 4.0 / BLOCK).floor().max(1.0) * BLOCK;
        let exchanges = (parameters / ranks / per_exchange).ceil();
        let gathers = (2.0 * parameters / BUCKET).ceil() + (statistics / BUCKET).ceil();
        // All-to-all by pairs, all-gather around a ring, two agreements by trees.
        let messages = (exchanges + gathers) * (ranks - 1.0) + 2.0 * 2.0 * ranks.log2().ceil();
        let seconds = (reduction + statistics + gathered) / bandwidth + messages * latency;
        Cost {
            state: 2.0 * parameters / ranks,
            reduction,
            statistics,
            parameters: gathered,
            messages,
            seconds,
        }
    }

    fn print(&self, parameters: f64, ranks: f64) {
        println!(
            "| {:.1} | {ranks} | {:.3} | {:.2} | {:.3} | {:.2} | {:.0} | {:.3} |",
            parameters / 1e9,
            self.state / 1e9,
            self.reduction / 1e9,
            self.statistics / 1e9,
            self.parameters / 1e9,
            self.messages,
            self.seconds
        );
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let numbers = std::env::args().skip(1).map(|it| it.parse()).collect::<Result<Vec<f64>, _>>()?;
    println!(
        "| parameters, 10^9 | ranks | state, GB | reduction, GB | norms, GB | parameters, GB | messages | seconds |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    match numbers[..] {
        [] => {
            for parameters in [1.3e9, 70e9] {
                for ranks in [16.0, 64.0, 256.0, 1024.0, 4096.0, 10_000.0] {
                    Cost::new(parameters, ranks, BANDWIDTH, LATENCY).print(parameters, ranks);
                }
            }
        }
        [parameters, ranks, bandwidth, latency] => {
            Cost::new(parameters, ranks, bandwidth, latency).print(parameters, ranks);
        }
        _ => return Err("four numbers are wanted: PARAMETERS RANKS BANDWIDTH LATENCY".into()),
    }
    Ok(())
}
