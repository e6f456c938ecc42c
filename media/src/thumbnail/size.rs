//! Which sizes thumbnails are made in, and what part of a picture goes into one.

/// How a picture is fitted into the size asked for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Method {
    /// The aspect asked for; what does not fit is cut off at the edges.
    Crop,
    /// The aspect of the picture.
    Scale,
}

/// A size that thumbnails are made in, in pixels.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Size {
    /// Width of the box.
    pub width: u32,
    /// Height of the box.
    pub height: u32,
    /// How it is filled.
    pub method: Method,
}

/// The boxes for [`Method::Scale`]: those of the spec, and one for screens of double density.
const BOXES: [(u32, u32); 4] = [(320, 240), (640, 480), (800, 600), (1600, 1200)];
/// The longer sides for [`Method::Crop`].
const SIDES: [u32; 6] = [32, 96, 320, 640, 800, 1600];

impl Size {
    /// The smallest size made that is at least as large as what a request asks for, so that many
    /// requests share one thumbnail. `None` if there is none: then the file itself is served.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#thumbnails>
    pub fn for_request(width: u32, height: u32, method: Method) -> Option<Self> {
        let (width, height) = (width.max(1), height.max(1));
        let (width, height) = match method {
            Method::Scale => {
                *BOXES.iter().find(|(box_w, box_h)| *box_w >= width && *box_h >= height)?
            }
            Method::Crop => {
                let longer = width.max(height);
                let side = *SIDES.iter().find(|side| **side >= longer)?;
                let grown = |length: u32| {
                    let length = (u64::from(length) * u64::from(side)).div_ceil(u64::from(longer));
                    u32::try_from(length).unwrap_or(side)
                };
                (grown(width), grown(height))
            }
        };
        Some(Self { width, height, method })
    }

    /// What to do with a picture of this size. `None`: it is no larger than the thumbnail would be.
    pub(super) fn fit(self, width: u32, height: u32) -> Option<Fit> {
        let Self { width: box_w, height: box_h, method } = self;
        if width <= box_w && height <= box_h {
            return None;
        }
        let fit = match method {
            Method::Scale => {
                let whole = Fit { x: 0, y: 0, width, height, to_width: width, to_height: height };
                if u64::from(box_w) * u64::from(height) <= u64::from(box_h) * u64::from(width) {
                    let to_height = part(height, box_w, width);
                    Fit { to_width: box_w, to_height, ..whole }
                } else {
                    let to_width = part(width, box_h, height);
                    Fit { to_width, to_height: box_h, ..whole }
                }
            }
            Method::Crop => {
                // The largest part of the picture that has the box's aspect, from the middle.
                let (cut_w, cut_h) =
                    if u64::from(width) * u64::from(box_h) > u64::from(height) * u64::from(box_w) {
                        (part(height, box_w, box_h).min(width), height)
                    } else {
                        (width, part(width, box_h, box_w).min(height))
                    };
                Fit {
                    x: (width - cut_w) / 2,
                    y: (height - cut_h) / 2,
                    width: cut_w,
                    height: cut_h,
                    // Never larger than it was.
                    to_width: box_w.min(cut_w),
                    to_height: box_h.min(cut_h),
                }
            }
        };
        Some(fit)
    }
}

/// `length · by / of`, rounded, at least 1.
fn part(length: u32, by: u32, of: u32) -> u32 {
    let (length, by, of) = (u64::from(length), u64::from(by), u64::from(of.max(1)));
    u32::try_from((length * by + of / 2) / of).unwrap_or(u32::MAX).max(1)
}

/// The part of a picture to take, and the size to bring it to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Fit {
    pub(super) x: u32,
    pub(super) y: u32,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) to_width: u32,
    pub(super) to_height: u32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_share_the_sizes_of_the_spec() {
        for (width, height, method, expected) in [
            (32, 32, Method::Crop, Some((32, 32))),
            (40, 40, Method::Crop, Some((96, 96))),
            (96, 48, Method::Crop, Some((96, 48))),
            (100, 50, Method::Crop, Some((320, 160))),
            (1, 1, Method::Scale, Some((320, 240))),
            (320, 240, Method::Scale, Some((320, 240))),
            (240, 320, Method::Scale, Some((640, 480))),
            (800, 600, Method::Scale, Some((800, 600))),
            (801, 600, Method::Scale, Some((1600, 1200))),
            (4000, 4000, Method::Scale, None),
            (u32::MAX, 1, Method::Crop, None),
            (0, 0, Method::Crop, Some((32, 32))),
        ] {
            let size = Size::for_request(width, height, method);
            assert_eq!(size.map(|size| (size.width, size.height)), expected, "{width}x{height}");
        }
    }

    #[test]
    fn scaling_keeps_the_aspect_and_cropping_takes_the_middle() {
        let scale = Size { width: 320, height: 240, method: Method::Scale };
        let fit = scale.fit(1000, 500).unwrap();
        assert_eq!((fit.to_width, fit.to_height), (320, 160));
        let fit = scale.fit(100, 1000).unwrap();
        assert_eq!((fit.to_width, fit.to_height), (24, 240));
        assert_eq!(scale.fit(320, 240), None);
        let crop = Size { width: 96, height: 96, method: Method::Crop };
        let fit = crop.fit(1000, 500).unwrap();
        assert_eq!((fit.x, fit.y, fit.width, fit.height), (250, 0, 500, 500));
        assert_eq!((fit.to_width, fit.to_height), (96, 96));
        // A flat picture is cut, not blown up.
        let fit = crop.fit(1000, 50).unwrap();
        assert_eq!((fit.width, fit.height, fit.to_width, fit.to_height), (50, 50, 50, 50));
    }

    proptest! {
        #[test]
        fn nothing_is_ever_blown_up_or_cut_outside(
            asked_w in 0_u32..5000, asked_h in 0_u32..5000, crop: bool,
            width in 1_u32..100_000, height in 1_u32..100_000,
        ) {
            let method = if crop { Method::Crop } else { Method::Scale };
            if let Some(size) = Size::for_request(asked_w, asked_h, method) {
                prop_assert!(size.width >= asked_w && size.height >= asked_h);
                if let Some(fit) = size.fit(width, height) {
                    prop_assert!(fit.x + fit.width <= width && fit.y + fit.height <= height);
                    prop_assert!(fit.to_width >= 1 && fit.to_width <= fit.width);
                    prop_assert!(fit.to_height >= 1 && fit.to_height <= fit.height);
                    prop_assert!(fit.to_width <= size.width && fit.to_height <= size.height);
                }
            }
        }
    }
}
