//! What an event costs by itself: its canonical form, making it, checking it.
//!
//! ```sh
//! cargo bench --features bench --bench events
//! ```

use criterion::{Criterion, criterion_group, criterion_main};
use myelin::event_bench::Bench;
use std::hint::black_box;

fn events(criterion: &mut Criterion) {
    let bench = Bench::default();
    let mut number = 0;
    criterion.bench_function("canonical JSON of a message's content", |bencher| {
        bencher.iter(|| {
            number += 1;
            bench.canonical(black_box(number))
        });
    });
    let content = bench.canonical(1);
    criterion.bench_function("make: hash, sign, ID", |bencher| {
        bencher.iter(|| bench.build(black_box(&content)));
    });
    let event = bench.build(&content);
    criterion.bench_function("check: form, hash, signature", |bencher| {
        bencher.iter(|| bench.verify(black_box(&event)));
    });
}

criterion_group!(benches, events);
criterion_main!(benches);
