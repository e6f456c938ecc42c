//! What the machine itself takes for the parts that no server can leave out: a flush of the disk, an
//! upload that is hashed and synced, bytes over a connection.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use sha2::{Digest as _, Sha256};

/// How often each part is repeated.
const REPEAT: usize = 300;
/// What is uploaded and downloaded.
const MEDIUM: usize = 1 << 20;
/// How much of it is written, read or sent at once.
const PIECE: usize = 128 << 10;
/// About what a request and a short answer take, with their heads.
const REQUEST: usize = 300;

/// What one part takes.
struct Floor {
    name: &'static str,
    /// How long each time took, in ascending order.
    took: Vec<Duration>,
    /// CPU time of all of them, the kernel's part included.
    processor: Duration,
}

impl Floor {
    /// Repeats a part; the CPU time is that of this thread.
    fn of(name: &'static str, mut part: impl FnMut() -> io::Result<()>) -> io::Result<Self> {
        let before = processor_time()?;
        let mut took = Vec::with_capacity(REPEAT);
        for _ in 0..REPEAT {
            let began = Instant::now();
            part()?;
            took.push(began.elapsed());
        }
        took.sort_unstable();
        Ok(Self { name, took, processor: processor_time()?.saturating_sub(before) })
    }

    /// How long this part of all times took at most, in milliseconds.
    fn quantile_ms(&self, part: f64) -> f64 {
        let at = ((self.took.len() as f64 * part) as usize).min(self.took.len() - 1);
        self.took[at].as_secs_f64() * 1000.0
    }
}

/// Measures in `directory`, which should be on the disk that a server would use.
pub(crate) fn print(directory: &Path) -> io::Result<()> {
    let directory = tempfile::tempdir_in(directory)?;
    let content: Vec<u8> = (0..MEDIUM).map(|at| (at % 251) as u8).collect();
    let floors = [
        flush(directory.path())?,
        upload(directory.path(), &content)?,
        receive(&content)?,
        send(directory.path(), &content)?,
        answer()?,
    ];
    println!("{:<64}{:>9}{:>9}{:>9}", "", "p50 ms", "p99 ms", "CPU ms");
    for floor in floors {
        let each = floor.processor.as_secs_f64() * 1000.0 / REPEAT as f64;
        let (median, slow) = (floor.quantile_ms(0.5), floor.quantile_ms(0.99));
        println!("{:<64}{median:>9.3}{slow:>9.3}{each:>9.3}", floor.name);
    }
    Ok(())
}

fn processor_time() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn flush(directory: &Path) -> io::Result<Floor> {
    let mut log = File::create(directory.join("log"))?;
    Floor::of("4 KiB appended to a log, flushed", || {
        log.write_all(&[7; 4096])?;
        log.sync_data()
    })
}

fn upload(directory: &Path, content: &[u8]) -> io::Result<Floor> {
    let mut number = 0;
    Floor::of("1 MiB hashed, written, flushed and moved to its place", || {
        number += 1;
        let staged = directory.join("staged");
        let mut file = File::create(&staged)?;
        let mut hasher = Sha256::new();
        for piece in content.chunks(PIECE) {
            hasher.update(piece);
            file.write_all(piece)?;
        }
        file.sync_all()?;
        std::fs::rename(staged, directory.join(format!("{number}-{:x}", hasher.finalize()[0])))?;
        File::open(directory)?.sync_all()
    })
}

fn receive(content: &[u8]) -> io::Result<Floor> {
    let (mut here, mut there) = connection()?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..REPEAT {
                // The other end reads it all.
                there.write_all(content).expect("it is connected");
            }
        });
        let mut buffer = vec![0; PIECE];
        Floor::of("1 MiB received over a connection", || {
            (0..MEDIUM / PIECE).try_for_each(|_| here.read_exact(&mut buffer))
        })
    })
}

fn send(directory: &Path, content: &[u8]) -> io::Result<Floor> {
    let path = directory.join("medium");
    std::fs::write(&path, content)?;
    let (mut here, mut there) = connection()?;
    std::thread::scope(|scope| {
        scope.spawn(move || io::copy(&mut there, &mut io::sink()));
        let mut buffer = vec![0; PIECE];
        let floor = Floor::of("1 MiB read from a file and sent over a connection", || {
            let mut file = File::open(&path)?;
            loop {
                let read = file.read(&mut buffer)?;
                if read == 0 {
                    return Ok(());
                }
                here.write_all(&buffer[..read])?;
            }
        });
        // The reader ends with it.
        drop(here);
        floor
    })
}

fn answer() -> io::Result<Floor> {
    let (mut here, mut there) = connection()?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = [0; REQUEST];
            for _ in 0..REPEAT {
                there.write_all(&[7; REQUEST]).expect("it is connected");
                there.read_exact(&mut buffer).expect("it is answered");
            }
        });
        let mut buffer = [0; REQUEST];
        Floor::of("300 bytes received and answered, one at a time", || {
            here.read_exact(&mut buffer)?;
            here.write_all(&buffer)
        })
    })
}

/// Two ends of a connection on this machine.
fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let here = TcpStream::connect(listener.local_addr()?)?;
    let (there, _) = listener.accept()?;
    here.set_nodelay(true)?;
    there.set_nodelay(true)?;
    Ok((here, there))
}
