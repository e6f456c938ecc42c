//! What the search index costs a message on its way into the room: its words are found and become
//! rows of the same change.
//!
//! ```sh
//! cargo bench --features bench --bench search
//! ```
//!
//! Without the write itself, which the rows share with the rest of the change: `myelin-bench` shows
//! that, with `search.enabled` true and false.

#![expect(clippy::cast_precision_loss, reason = "a benchmark reports rounded figures")]

use std::time::Duration;

use myelin::search_bench::Message;
use tokio::time::Instant;

/// How long each figure is measured.
const TIME: Duration = Duration::from_secs(2);

fn main() {
    let sentence = "Shall we meet at the usual place when the rain is over? ";
    let mut many = String::new();
    for number in 0..3_000 {
        many.extend(["word", &number.to_string(), " "]);
    }
    let messages = [
        ("a word", "yes".to_owned()),
        ("a sentence", sentence.to_owned()),
        ("a paragraph", sentence.repeat(8)),
        ("a sentence in Chinese", "雨停了以后我们还在老地方见面喝茶好吗".to_owned()),
        ("20 kB of words", many),
    ];
    println!("{:>24} {:>8} {:>8} {:>14}", "message", "bytes", "rows", "us per message");
    for (name, body) in messages {
        let message = Message::new(&body);
        assert!(message.words() > 0, "{name} has words");
        let (mut position, start) = (0, Instant::now());
        while start.elapsed() < TIME {
            position += 1;
            assert!(std::hint::black_box(message.index(position)), "they become rows");
        }
        let each = start.elapsed().as_secs_f64() / position as f64;
        println!("{name:>24} {:>8} {:>8} {:>14.2}", body.len(), message.words(), each * 1e6);
    }
}
