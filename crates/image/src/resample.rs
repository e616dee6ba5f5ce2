//! Pixels to fewer or more pixels, by the antialiased triangle filter.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

/// Resamples the window `(left, top, width, height)`, in pixels, of `samples` of `(width, height)` pixels to `target` pixels.
///
/// The window must lie inside. `P` is the kind of pixel: to choose it at run time would compile the filters for all kinds
/// there are, which took a twelfth of the build.
pub(super) fn resample<P: PixelTrait>(
    samples: &[u8],
    (width, height): (u32, u32),
    (left, top, across, down): (f64, f64, f64, f64),
    target: (u32, u32),
) -> Vec<u8> {
    let source =
        ImageRef::new(width, height, samples, P::pixel_type()).expect("width x height pixels of this kind");
    let mut image = Image::new(target.0, target.1, P::pixel_type());
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
        .use_alpha(false)
        .crop(left, top, across, down);
    let source = source.typed_image::<P>().expect("it was made of this kind");
    let mut view = image.typed_image_mut::<P>().expect("it was made of this kind");
    Resizer::new().resize_typed(&source, &mut view, &options).expect("the window lies inside the source");
    image.into_vec()
}
