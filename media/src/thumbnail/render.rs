//! From a file to a smaller picture; runs on a thread that may take its time.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom},
};

use image::{
    AnimationDecoder, DynamicImage, Frame, Frames, ImageDecoder, RgbaImage,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        jpeg::{JpegDecoder, JpegEncoder},
        png::{PngDecoder, PngEncoder},
        webp::WebPDecoder,
    },
    imageops,
    metadata::Orientation,
};
use tokio::time::Instant;

use super::{Limits, Picture, Rendered, Size, Source, ThumbnailError, size::Fit};
use crate::kind::Kind;

/// Of 100.
const JPEG_QUALITY: u8 = 82;
/// Colour profiles above this are no profiles.
const MAX_PROFILE_BYTES: usize = 64 * 1024;
/// Animated thumbnails above this are not worth it.
const MAX_ANIMATION_BYTES: usize = 8 * 1024 * 1024;
/// How coarsely colours are chosen for each frame, 1 to 30.
const GIF_SPEED: i32 = 20;
/// The side of the picture that a blurhash is computed of.
const BLURHASH_SIDE: u32 = 64;

/// What a picture's head says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probed {
    pub(super) picture: Picture,
    /// Memory that decoding takes, roughly.
    pub(super) memory_bytes: u64,
}

/// A reader that fails once time is up, which no decoder outlives for long.
struct Timed<R> {
    inner: R,
    until: Instant,
}

impl<R> Timed<R> {
    fn check(&self) -> io::Result<()> {
        if Instant::now() > self.until { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl<R: Read> Read for Timed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.inner.read(buffer)
    }
}

impl<R: Seek> Seek for Timed<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

trait Input: BufRead + Seek {}
impl<R: BufRead + Seek> Input for R {}

fn open(source: &Source, until: Instant) -> Result<(Kind, Box<dyn Input + '_>), ThumbnailError> {
    let mut input: Box<dyn Input> = match source {
        Source::File(file) => {
            let inner = File::open(file.path()).map_err(crate::blob::BlobError::from)?;
            Box::new(BufReader::with_capacity(64 * 1024, Timed { inner, until }))
        }
        Source::Bytes(bytes) => {
            Box::new(BufReader::new(Timed { inner: Cursor::new(&**bytes), until }))
        }
    };
    let mut head = Vec::new();
    let read = input.by_ref().take(32).read_to_end(&mut head);
    read.and_then(|_| input.rewind()).map_err(image::ImageError::IoError)?;
    let kind = Kind::of(&head).ok_or(ThumbnailError::NotAPicture)?;
    Ok((kind, input))
}

/// The decoder of a picture, which has read the head only.
enum Decoder<R: BufRead + Seek> {
    Png(Box<PngDecoder<R>>),
    Jpeg(JpegDecoder<R>),
    Gif(Box<GifDecoder<R>>),
    Webp(WebPDecoder<R>),
}

macro_rules! each {
    ($decoder:expr, $inner:ident => $done:expr) => {
        match $decoder {
            Decoder::Png($inner) => $done,
            Decoder::Jpeg($inner) => $done,
            Decoder::Gif($inner) => $done,
            Decoder::Webp($inner) => $done,
        }
    };
}

impl<R: BufRead + Seek> Decoder<R> {
    fn new(kind: Kind, input: R, limits: &Limits) -> Result<Self, ThumbnailError> {
        let mut decoder = match kind {
            Kind::Png => {
                Self::Png(Box::new(PngDecoder::with_limits(input, allocation_limits(limits))?))
            }
            Kind::Jpeg => Self::Jpeg(JpegDecoder::new(input)?),
            Kind::Gif => Self::Gif(Box::new(GifDecoder::new(input)?)),
            Kind::Webp => Self::Webp(WebPDecoder::new(input)?),
            _ => return Err(ThumbnailError::NotAPicture),
        };
        let (width, height) = decoder.dimensions();
        if u64::from(width) * u64::from(height) > limits.max_pixels || width == 0 || height == 0 {
            return Err(ThumbnailError::TooLarge { width, height });
        }
        each!(&mut decoder, inner => inner.set_limits(allocation_limits(limits)))?;
        Ok(decoder)
    }

    fn dimensions(&self) -> (u32, u32) {
        each!(self, inner => inner.dimensions())
    }

    fn orientation(&mut self) -> Orientation {
        // A broken note about the orientation is none.
        each!(self, inner => inner.orientation()).unwrap_or(Orientation::NoTransforms)
    }

    fn icc_profile(&mut self) -> Option<Vec<u8>> {
        let profile = each!(self, inner => inner.icc_profile()).ok().flatten();
        profile.filter(|profile| profile.len() <= MAX_PROFILE_BYTES)
    }

    fn decode(self) -> Result<DynamicImage, ThumbnailError> {
        Ok(match self {
            Self::Png(inner) => DynamicImage::from_decoder(*inner)?,
            Self::Jpeg(inner) => DynamicImage::from_decoder(inner)?,
            Self::Gif(inner) => DynamicImage::from_decoder(*inner)?,
            Self::Webp(inner) => DynamicImage::from_decoder(inner)?,
        })
    }

    /// The frames of a picture that moves, or may do so.
    fn frames<'a>(self) -> Result<Option<Frames<'a>>, ThumbnailError>
    where
        R: 'a,
    {
        Ok(match self {
            Self::Png(inner) if inner.is_apng()? => Some(inner.apng()?.into_frames()),
            Self::Gif(inner) => Some(inner.into_frames()),
            Self::Webp(inner) if inner.has_animation() => Some(inner.into_frames()),
            _ => None,
        })
    }

    fn memory_bytes(&self) -> u64 {
        let pixels = each!(self, inner => inner.total_bytes());
        match self {
            // A progressive one keeps its coefficients beside the pixels.
            Self::Jpeg(_) => pixels.saturating_mul(3),
            // A canvas and a frame.
            _ => pixels.saturating_mul(2),
        }
    }
}

fn allocation_limits(limits: &Limits) -> image::Limits {
    let mut allocation = image::Limits::default();
    // Up to 16 bytes for a pixel, for a decoder's own.
    allocation.max_alloc = Some(limits.max_pixels.saturating_mul(16));
    allocation
}

/// Whether the orientation swaps width and height.
fn lies(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    )
}

pub(super) fn probe(
    source: &Source,
    limits: &Limits,
    until: Instant,
) -> Result<Probed, ThumbnailError> {
    let (kind, input) = open(source, until)?;
    let mut decoder = Decoder::new(kind, input, limits)?;
    let (width, height) = decoder.dimensions();
    let lies = lies(decoder.orientation());
    let (width, height) = if lies { (height, width) } else { (width, height) };
    Ok(Probed { picture: Picture { width, height }, memory_bytes: decoder.memory_bytes() })
}

pub(super) fn thumbnail(
    source: &Source,
    limits: &Limits,
    until: Instant,
    size: Size,
    animated: bool,
) -> Result<Rendered, ThumbnailError> {
    let (kind, input) = open(source, until)?;
    let mut decoder = Decoder::new(kind, input, limits)?;
    let orientation = decoder.orientation();
    let (width, height) = decoder.dimensions();
    // What is done before the picture is turned must be told in its own directions.
    let fit = if lies(orientation) {
        let turned = size.fit(height, width);
        turned.map(|fit| Fit {
            x: fit.y,
            y: fit.x,
            width: fit.height,
            height: fit.width,
            to_width: fit.to_height,
            to_height: fit.to_width,
        })
    } else {
        size.fit(width, height)
    };
    if animated {
        match fit {
            // Moving or not, it is served as it is.
            None => return Ok(Rendered::Original { content_type: kind.content_type() }),
            Some(fit) => {
                if let Some(made) = animation(decoder, limits, until, fit)? {
                    return Ok(made);
                }
            }
        }
        return thumbnail(source, limits, until, size, false);
    }
    let may_move = match &decoder {
        Decoder::Png(inner) => inner.is_apng()?,
        Decoder::Webp(inner) => inner.has_animation(),
        Decoder::Gif(_) => true,
        Decoder::Jpeg(_) => false,
    };
    let fit = match fit {
        None if !may_move => {
            return Ok(Rendered::Original { content_type: kind.content_type() });
        }
        // Small, but it must not move: its first frame.
        None => Fit { x: 0, y: 0, width, height, to_width: width, to_height: height },
        Some(fit) => fit,
    };
    let profile = decoder.icc_profile();
    let mut picture = apply(decoder.decode()?, fit);
    picture.apply_orientation(orientation);
    encode(picture, profile)
}

fn apply(mut picture: DynamicImage, fit: Fit) -> DynamicImage {
    if (fit.width, fit.height) != (picture.width(), picture.height()) {
        picture = picture.crop_imm(fit.x, fit.y, fit.width, fit.height);
    }
    if (fit.to_width, fit.to_height) == (fit.width, fit.height) {
        return picture;
    }
    picture.thumbnail_exact(fit.to_width, fit.to_height)
}

/// JPEG, or PNG for what one can see through. What else the file had, such as where a photo was
/// taken, is not taken over.
fn encode(picture: DynamicImage, profile: Option<Vec<u8>>) -> Result<Rendered, ThumbnailError> {
    let (width, height) = (picture.width(), picture.height());
    let mut bytes = Vec::new();
    let content_type = if picture.color().has_alpha() {
        let picture = DynamicImage::ImageRgba8(picture.into_rgba8());
        let mut encoder = PngEncoder::new(&mut bytes);
        set_profile(&mut encoder, profile);
        picture.write_with_encoder(encoder)?;
        "image/png"
    } else {
        let picture = match picture {
            grey @ DynamicImage::ImageLuma8(_) => grey,
            colour => DynamicImage::ImageRgb8(colour.into_rgb8()),
        };
        let mut encoder = JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
        set_profile(&mut encoder, profile);
        picture.write_with_encoder(encoder)?;
        "image/jpeg"
    };
    Ok(Rendered::Made { content_type, bytes, width, height })
}

fn set_profile(encoder: &mut impl image::ImageEncoder, profile: Option<Vec<u8>>) {
    if let Some(profile) = profile {
        // Without it colours are a little off, which is better than no picture.
        encoder.set_icc_profile(profile).ok();
    }
}

/// A smaller animation; `None` if the picture does not move, or too long for this.
fn animation<R: BufRead + Seek>(
    decoder: Decoder<R>,
    limits: &Limits,
    until: Instant,
    fit: Fit,
) -> Result<Option<Rendered>, ThumbnailError> {
    let Some(frames) = decoder.frames()? else { return Ok(None) };
    let mut bytes = Vec::new();
    let mut count = 0;
    {
        let mut encoder = GifEncoder::new_with_speed(Limited(&mut bytes), GIF_SPEED);
        encoder.set_repeat(Repeat::Infinite)?;
        for frame in frames {
            let frame = frame?;
            count += 1;
            if count > limits.max_frames {
                return Ok(None);
            }
            if Instant::now() > until {
                return Err(ThumbnailError::TooSlow);
            }
            let delay = frame.delay();
            let small = shrink(frame.buffer(), fit);
            match encoder.encode_frame(Frame::from_parts(small, 0, 0, delay)) {
                Err(image::ImageError::IoError(error))
                    if error.kind() == io::ErrorKind::FileTooLarge =>
                {
                    return Ok(None);
                }
                done => done?,
            }
        }
    }
    if count < 2 {
        return Ok(None);
    }
    let (width, height) = (fit.to_width, fit.to_height);
    Ok(Some(Rendered::Made { content_type: "image/gif", bytes, width, height }))
}

fn shrink(frame: &RgbaImage, fit: Fit) -> RgbaImage {
    let cut = imageops::crop_imm(frame, fit.x, fit.y, fit.width, fit.height);
    imageops::thumbnail(&*cut, fit.to_width, fit.to_height)
}

/// Takes so much and no more.
struct Limited<'a>(&'a mut Vec<u8>);

impl io::Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_ANIMATION_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn blurhash(
    source: &Source,
    limits: &Limits,
    until: Instant,
) -> Result<String, ThumbnailError> {
    let (kind, input) = open(source, until)?;
    let mut decoder = Decoder::new(kind, input, limits)?;
    let orientation = decoder.orientation();
    let picture = decoder.decode()?;
    let (width, height) = (picture.width(), picture.height());
    let side = |length: u32| length.min(BLURHASH_SIDE);
    let mut small = picture.thumbnail_exact(side(width), side(height));
    small.apply_orientation(orientation);
    let small = small.into_rgba8();
    let (across, down) = if height > width { (3, 4) } else { (4, 3) };
    blurhash::encode(across, down, small.width(), small.height(), small.as_raw())
        .map_err(|_| ThumbnailError::NotAPicture)
}
