//! The content repository.

use std::io::Cursor;

use bytes::Bytes;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

use crate::http::CallError;
use crate::measure::{Row, Samples, measure};
use crate::world::World;

const MIB: usize = 1024 * 1024;

pub(super) async fn media(world: &World) -> Result<Vec<Row>, CallError> {
    let user = world.users.first().cloned().ok_or(CallError::Missing("user"))?;
    let count = world.count(60) as u64;

    let files: Vec<Bytes> = (0..count).map(|seed| noise(MIB, seed)).collect();
    let (done, mut finished) = tokio::sync::mpsc::unbounded_channel();
    let uploader = user.clone();
    let upload = async move {
        let mut samples = Samples::default();
        for file in files {
            let upload = uploader.upload("application/octet-stream", file);
            if let Some(media) = samples.time(upload).await {
                // The receiver is dropped after the last worker has ended.
                let _ = done.send(media);
            }
        }
        samples
    };
    let up = measure("upload 1 MiB", world.usage, vec![upload]).await;
    let mut names = Vec::new();
    while let Some(media) = finished.recv().await {
        names.push(media);
    }
    let reader = user.clone();
    let download = async move {
        let mut samples = Samples::default();
        for media in names {
            samples.time(reader.media("download", &media)).await;
        }
        samples
    };
    let down = measure("download 1 MiB", world.usage, vec![download]).await;

    let mut photos = Vec::new();
    for seed in 0..count {
        photos.push(user.upload("image/jpeg", photo(seed)?).await?);
    }
    let thumbnails = async move {
        let mut samples = Samples::default();
        for photo in photos {
            let path = format!("{photo}?width=320&height=240&method=scale");
            samples.time(user.media("thumbnail", &path)).await;
        }
        samples
    };
    let thumbnails = measure("first thumbnail of 800 × 600", world.usage, vec![thumbnails]).await;
    Ok(vec![up, down, thumbnails])
}

/// Bytes that no other seed has, so that none of them is stored already.
fn noise(size: usize, seed: u64) -> Bytes {
    let mut state = seed * 2 + 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

fn photo(seed: u64) -> Result<Bytes, CallError> {
    let [shift, ..] = seed.to_le_bytes();
    let picture = RgbImage::from_fn(800, 600, |x, y| {
        let ([x, ..], [y, ..]) = (x.to_le_bytes(), y.to_le_bytes());
        Rgb([x ^ y, x.wrapping_add(shift), y])
    });
    let mut jpeg = Vec::new();
    DynamicImage::from(picture)
        .write_to(&mut Cursor::new(&mut jpeg), ImageFormat::Jpeg)
        .map_err(|error| CallError::Transport(error.to_string()))?;
    Ok(jpeg.into())
}
