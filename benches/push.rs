//! How many messages a second push rules are asked about, for all members of a room.
//!
//! ```sh
//! cargo bench --features bench --bench push
//! ```
//!
//! Members have the rules that everybody has, or 200 words, 200 rooms and 200 senders of their own
//! besides. A message is read and taken apart each time, as when it comes from the database.

#![expect(clippy::cast_precision_loss, reason = "a benchmark reports rounded figures")]

use std::time::Duration;

use myelin::push_bench::Bench;
use tokio::time::Instant;

/// How long each figure is measured.
const TIME: Duration = Duration::from_secs(2);

fn main() {
    println!("{:>8} {:>8} {:>12} {:>14}", "members", "rules", "messages/s", "us per message");
    for members in [10, 100, 1_000] {
        for heavy in [false, true] {
            let bench = Bench::new(members, heavy);
            assert_eq!(bench.message(0), members - 1, "whom a message notifies");
            let (mut messages, start) = (0, Instant::now());
            while start.elapsed() < TIME {
                messages += 1;
                std::hint::black_box(bench.message(messages));
            }
            let each = start.elapsed().as_secs_f64() / messages as f64;
            let rules = if heavy { "heavy" } else { "default" };
            println!("{members:>8} {rules:>8} {:>12.0} {:>14.1}", each.recip(), each * 1e6);
        }
    }
}
