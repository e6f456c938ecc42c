use std::io::Cursor;

use image::{
    Delay, DynamicImage, Frame, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage,
    codecs::gif::GifEncoder,
};

use super::*;

fn scale(width: u32, height: u32) -> Size {
    Size { width, height, method: Method::Scale }
}

/// Red on the left, blue on the right.
fn halves(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, _| {
        if x < width / 2 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) }
    })
}

fn file(picture: impl Into<DynamicImage>, format: ImageFormat) -> Source {
    let mut bytes = Vec::new();
    picture.into().write_to(&mut Cursor::new(&mut bytes), format).unwrap();
    Source::Bytes(bytes.into())
}

async fn made(source: Source, size: Size, animated: bool) -> (&'static str, RgbaImage) {
    let made = Thumbnailer::new(Limits::default()).thumbnail(source, size, animated).await;
    let Ok(Rendered::Made { content_type, bytes, width, height }) = made else {
        panic!("{made:?}")
    };
    let picture = image::load_from_memory(&bytes).unwrap().into_rgba8();
    assert_eq!((picture.width(), picture.height()), (width, height));
    (content_type, picture)
}

#[tokio::test]
async fn every_kind_of_picture_becomes_smaller() {
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
        let (content_type, small) =
            made(file(halves(1000, 500), format), scale(320, 240), false).await;
        assert_eq!((content_type, small.dimensions()), ("image/jpeg", (320, 160)), "{format:?}");
        let (left, right) = (small.get_pixel(10, 80), small.get_pixel(310, 80));
        assert!(left.0[0] > 200 && left.0[2] < 60, "{format:?} {left:?}");
        assert!(right.0[2] > 200 && right.0[0] < 60, "{format:?} {right:?}");
    }
}

#[tokio::test]
async fn what_one_can_see_through_stays_so() {
    let clear = RgbaImage::from_pixel(500, 500, Rgba([0, 255, 0, 0]));
    let (content_type, small) = made(file(clear, ImageFormat::Png), scale(320, 240), false).await;
    assert_eq!(content_type, "image/png");
    assert_eq!(small.get_pixel(100, 100).0[3], 0);
}

#[tokio::test]
async fn a_small_picture_is_served_as_it_is() {
    let thumbnailer = Thumbnailer::new(Limits::default());
    let source = file(halves(100, 100), ImageFormat::Png);
    let rendered = thumbnailer.thumbnail(source, scale(320, 240), false).await.unwrap();
    assert_eq!(rendered, Rendered::Original { content_type: "image/png" });
}

/// A JPEG with the orientation given in its EXIF part, and a place it was taken at.
fn photo(orientation: u8) -> Source {
    let mut bytes = Vec::new();
    let halves = DynamicImage::from(halves(800, 400));
    halves.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Jpeg).unwrap();
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    exif.extend(b"SECRET PLACE");
    let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
    let mut photo = bytes[..2].to_vec();
    photo.extend([0xff, 0xe1]);
    photo.extend(length);
    photo.extend(&exif);
    photo.extend(&bytes[2..]);
    Source::Bytes(photo.into())
}

#[tokio::test]
async fn a_photo_is_turned_as_its_camera_says_and_nothing_else_is_kept() {
    let (_, small) = made(photo(1), scale(320, 240), false).await;
    assert_eq!(small.dimensions(), (320, 160));
    // Turned to the right: what was left is on top.
    let (_, small) = made(photo(6), scale(320, 240), false).await;
    assert_eq!(small.dimensions(), (120, 240));
    assert!(small.get_pixel(60, 20).0[0] > 200 && small.get_pixel(60, 220).0[2] > 200);
    let crop = Size { width: 96, height: 48, method: Method::Crop };
    let (_, small) = made(photo(6), crop, false).await;
    assert_eq!(small.dimensions(), (96, 48));
    let thumbnailer = Thumbnailer::new(Limits::default());
    assert_eq!(thumbnailer.picture(photo(6)).await.unwrap(), Picture { width: 400, height: 800 });
    let Rendered::Made { bytes, .. } =
        thumbnailer.thumbnail(photo(6), scale(320, 240), false).await.unwrap()
    else {
        panic!("it is larger")
    };
    assert!(!bytes.windows(6).any(|window| window == b"SECRET"));
    assert!(!bytes.windows(4).any(|window| window == b"Exif"));
}

fn animation(width: u32, height: u32, frames: u32) -> Source {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut bytes, 30);
    for number in 0..frames {
        let shade = u8::try_from(number * 50 % 256).unwrap();
        let picture = RgbaImage::from_pixel(width, height, Rgba([shade, 0, 0, 255]));
        let delay = Delay::from_numer_denom_ms(100, 1);
        encoder.encode_frame(Frame::from_parts(picture, 0, 0, delay)).unwrap();
    }
    drop(encoder);
    Source::Bytes(bytes.into())
}

fn frames_of(bytes: &[u8]) -> usize {
    use image::AnimationDecoder as _;
    let decoder = image::codecs::gif::GifDecoder::new(Cursor::new(bytes)).unwrap();
    decoder.into_frames().collect_frames().unwrap().len()
}

#[tokio::test]
async fn an_animation_moves_only_where_it_is_asked_to() {
    let thumbnailer = Thumbnailer::new(Limits { max_frames: 10, ..Limits::default() });
    let thumbnail =
        async |source, animated| thumbnailer.thumbnail(source, scale(320, 240), animated).await;
    let moving = thumbnail(animation(640, 480, 4), true).await.unwrap();
    let Rendered::Made { content_type: "image/gif", bytes, width: 320, height: 240 } = moving
    else {
        panic!("{moving:?}")
    };
    assert_eq!(frames_of(&bytes), 4);
    for still in [
        thumbnail(animation(640, 480, 4), false).await.unwrap(),
        // Too long.
        thumbnail(animation(640, 480, 11), true).await.unwrap(),
        // One frame is no animation.
        thumbnail(animation(640, 480, 1), true).await.unwrap(),
        // Small, but it must not move.
        thumbnail(animation(64, 48, 4), false).await.unwrap(),
    ] {
        let Rendered::Made { content_type, .. } = still else { panic!("{still:?}") };
        assert_ne!(content_type, "image/gif");
    }
    let small = thumbnail(animation(64, 48, 4), true).await.unwrap();
    assert_eq!(small, Rendered::Original { content_type: "image/gif" });
}

#[tokio::test]
async fn what_claims_to_be_huge_is_refused_by_its_head() {
    // The head of a PNG of 65,000 × 65,000 pixels; there is no more of it.
    let mut bytes = Vec::new();
    let dot = DynamicImage::from(halves(1, 1));
    dot.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
    bytes[16..24].copy_from_slice(&[0, 0, 0xfd, 0xe8, 0, 0, 0xfd, 0xe8]);
    // The checksum of the changed part.
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    let refused = Thumbnailer::new(Limits::default())
        .thumbnail(Source::Bytes(bytes.into()), scale(320, 240), false)
        .await;
    let large = matches!(refused, Err(ThumbnailError::TooLarge { width: 65_000, height: 65_000 }));
    assert!(large, "{refused:?}");
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[tokio::test]
async fn broken_files_are_errors() {
    let thumbnailer = Thumbnailer::new(Limits::default());
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif] {
        let Source::Bytes(whole) = file(halves(1000, 500), format) else { panic!("bytes") };
        for length in [0, 1, 8, 20, 100, whole.len() / 2] {
            let source = Source::Bytes(whole.slice(..length.min(whole.len())));
            let made = thumbnailer.thumbnail(source, scale(320, 240), false).await;
            // A decoder may show what there is of a picture that breaks off.
            assert!(made.is_err() || length == whole.len() / 2, "{format:?} {length}");
        }
    }
    for text in [&b"<svg onload='alert(1)'/>"[..], b"%PDF-1.7", b"hello"] {
        let source = Source::Bytes(bytes::Bytes::from_static(text));
        let made = thumbnailer.thumbnail(source, scale(320, 240), false).await;
        assert!(matches!(made, Err(ThumbnailError::NotAPicture)), "{made:?}");
    }
}

#[tokio::test]
async fn time_is_bounded() {
    let thumbnailer = Thumbnailer::new(Limits { time: Duration::ZERO, ..Limits::default() });
    let source = file(halves(3000, 2000), ImageFormat::Png);
    let made = thumbnailer.thumbnail(source, scale(320, 240), false).await;
    assert!(matches!(made, Err(ThumbnailError::TooSlow)), "{made:?}");
}

#[tokio::test]
async fn pictures_wait_for_memory() {
    // Room for one picture at a time; all are made.
    let limits = Limits { memory_bytes: 1024, workers: 4, ..Limits::default() };
    let thumbnailer = Thumbnailer::new(limits);
    let jobs = (0..8).map(|_| {
        let source = file(halves(900, 700), ImageFormat::Jpeg);
        thumbnailer.thumbnail(source, scale(320, 240), false)
    });
    for made in futures::future::join_all(jobs).await {
        assert!(matches!(made, Ok(Rendered::Made { .. })), "{made:?}");
    }
}

#[tokio::test]
async fn a_blurhash_has_the_colours_of_the_picture() {
    let thumbnailer = Thumbnailer::new(Limits::default());
    let hash = thumbnailer.blurhash(file(halves(300, 200), ImageFormat::Png)).await.unwrap();
    let pixels = blurhash::decode(&hash, 20, 10, 1.0).unwrap();
    let at = |x: usize, y: usize| &pixels[(y * 20 + x) * 4..][..3];
    assert!(at(1, 5)[0] > at(1, 5)[2].saturating_add(80), "{:?}", at(1, 5));
    assert!(at(18, 5)[2] > at(18, 5)[0].saturating_add(80), "{:?}", at(18, 5));
}
