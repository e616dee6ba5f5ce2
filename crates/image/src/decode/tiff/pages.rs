//! What the description of a file says of its pages: whether the first is only one colour of a picture.
//!
//! ImageJ, Micro-Manager and OME-TIFF store each channel as a page of its own. The first page alone would be the red
//! channel as gray, which is answered as confidently as a picture. So three pages are merged where the file says that
//! they are red, green and blue, and channels of other or unknown colours are refused by name. Pages that are slices or
//! moments are no part of the picture, and the first is read.

use super::directory::{Directory, tag};

/// What a description says that decides how pages are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Description {
    pub channels: Channels,
    /// Bits of a sample that are in use, where the file states it.
    pub significant_bits: Option<u32>,
}

/// Where the channels of the first picture lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Channels {
    /// On the first page.
    OnePage,
    /// On the first three pages; the colour (0 to 2 for red, green and blue) of each.
    Colors([usize; 3]),
    /// On pages of which it is not certain what they show: what to call such a file.
    Unclear(String),
}

impl Description {
    /// Reads the description of the first page.
    pub(super) fn read(directory: &Directory<'_>) -> Self {
        let text = String::from_utf8_lossy(directory.bytes(tag::IMAGE_DESCRIPTION));
        if text.starts_with("ImageJ=") {
            let luts = imagej_luts(directory).unwrap_or_default();
            Self { channels: imagej_channels(&text, &luts), significant_bits: None }
        } else if text.contains("<OME") || text.contains(":OME") {
            ome(&text)
        } else {
            Self { channels: tifffile_channels(&text), significant_bits: None }
        }
    }
}

fn unclear(what: &str, channels: u64) -> Channels {
    Channels::Unclear(format!(
        "{what} with {channels} channels in pages of their own, which are not known to be red, green and blue"
    ))
}

/// `luts` are the look-up tables that ImageJ stores beside the description: 256 reds, greens and blues each.
fn imagej_channels(text: &str, luts: &[&[u8]]) -> Channels {
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        lines.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
    };
    let count = value("channels").map_or(Some(1), |count| count.parse::<u64>().ok()).unwrap_or(0);
    let colors = match (count, value("mode"), luts) {
        (1, ..) => return Channels::OnePage,
        // Its own colours for three channels.
        (3, Some("composite" | "color"), []) => Some([0, 1, 2]),
        (3, Some("composite" | "color"), [a, b, c]) => permutation([a, b, c].map(|lut| color_of_lut(lut))),
        _ => None,
    };
    colors.map_or_else(|| unclear("an ImageJ TIFF file", count), Channels::Colors)
}

/// The three colours, if each is there once.
fn permutation(colors: [Option<usize>; 3]) -> Option<[usize; 3]> {
    let [Some(a), Some(b), Some(c)] = colors else { return None };
    let is_complete = (0..3).all(|color| [a, b, c].contains(&color));
    is_complete.then_some([a, b, c])
}

/// The colour whose ramp from 0 to 255 a look-up table is.
fn color_of_lut(lut: &[u8]) -> Option<usize> {
    let is_ramp = |part: &[u8]| part.iter().zip(0..=255).all(|(&value, step)| value == step);
    let parts: Vec<&[u8]> = lut.chunks_exact(256).collect();
    let color = parts.iter().position(|part| is_ramp(part))?;
    let are_others_dark = (0..3).all(|other| other == color || parts[other].iter().all(|&value| value == 0));
    (parts.len() == 3 && are_others_dark).then_some(color)
}

/// The look-up tables in ImageJ's own tags: "IJIJ", then type and count of each kind of entry, then the entries.
fn imagej_luts<'a>(directory: &Directory<'a>) -> Option<Vec<&'a [u8]>> {
    let data = directory.bytes(tag::IMAGEJ_METADATA);
    let sizes = directory.numbers(tag::IMAGEJ_BYTE_COUNTS).ok()?;
    let (&head_bytes, mut entry_bytes) = sizes.split_first()?;
    let head = data.get(..usize::try_from(head_bytes).ok()?)?;
    let mut at = head.len();
    let mut luts = Vec::new();
    for kind in head.get(4..)?.chunks_exact(8) {
        let count = [kind[4], kind[5], kind[6], kind[7]];
        let count =
            if directory.is_big_endian() { u32::from_be_bytes(count) } else { u32::from_le_bytes(count) };
        for _ in 0..count {
            let (&size, rest) = entry_bytes.split_first()?;
            let entry = data.get(at..at.checked_add(usize::try_from(size).ok()?)?)?;
            if matches!(&kind[..4], b"luts" | b"stul") {
                luts.push(entry);
            }
            at += entry.len();
            entry_bytes = rest;
        }
    }
    Some(luts)
}

/// tifffile describes an array by its shape, and its axes where it knows them.
fn tifffile_channels(text: &str) -> Channels {
    #[derive(serde::Deserialize)]
    struct Shaped {
        shape: Vec<u64>,
        #[serde(default)]
        axes: String,
    }
    let Ok(Shaped { shape, axes }) = serde_json::from_str(text.trim_end_matches('\0')) else {
        return Channels::OnePage;
    };
    let channels = axes.bytes().zip(&shape).find(|&(axis, &size)| axis == b'C' && size > 1);
    match (channels, shape.as_slice()) {
        (Some((_, &count)), _) => unclear("a TIFF file", count),
        // Three gray pages without names: a picture whose colours come first, more often than three slices.
        (None, [3, _, _]) if axes.is_empty() => unclear("a TIFF file", 3),
        _ => Channels::OnePage,
    }
}

/// The elements of an XML text: name without its prefix, and the text of its attributes.
fn elements(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('<').filter_map(|piece| {
        let inside = piece.split_once('>')?.0.trim_end_matches('/');
        let (name, attributes) = inside.split_once(char::is_whitespace).unwrap_or((inside, ""));
        Some((name.rsplit(':').next().unwrap_or(name), attributes))
    })
}

/// The value of an attribute.
fn attribute<'a>(attributes: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = attributes;
    while let Some((key, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let quote = after.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        let (value, next) = after[1..].split_once(quote)?;
        if key.trim() == name {
            return Some(value);
        }
        rest = next;
    }
    None
}

/// OME-TIFF: the first image of the XML.
fn ome(text: &str) -> Description {
    let mut elements = elements(text).skip_while(|&(name, _)| name != "Pixels");
    let pixels = elements.next().map_or("", |(_, attributes)| attributes);
    let number = |name: &str| attribute(pixels, name).and_then(|value| value.trim().parse::<u64>().ok());
    let significant_bits = number("SignificantBits").and_then(|bits| u32::try_from(bits).ok());
    let count = number("SizeC").unwrap_or(1);
    let parts: Vec<_> = elements.take_while(|&(name, _)| name != "/Pixels").collect();
    let of = |wanted: &'static str| {
        parts.iter().filter(move |&&(name, _)| name == wanted).map(|&(_, attributes)| attributes)
    };

    let are_alone = number("SizeZ").unwrap_or(1) == 1 && number("SizeT").unwrap_or(1) == 1;
    let starts_with_channels =
        are_alone || attribute(pixels, "DimensionOrder").is_some_and(|order| order.starts_with("XYC"));
    // The pages are those of this file, in their order.
    let is_in_order = of("TiffData").enumerate().all(|(index, data)| {
        let is = |name, value: &str| attribute(data, name).is_none_or(|stated| stated == value);
        let page = index.to_string();
        is("IFD", &page) && is("FirstC", &page) && is("FirstZ", "0") && is("FirstT", "0")
    }) && matches!(of("TiffData").count(), 0 | 1 | 3)
        && of("UUID").all(|attributes| attribute(attributes, "FileName").is_none());
    let colors: Vec<Option<usize>> = of("Channel").map(color_of_channel).collect();
    let channels = match (count, colors.as_slice()) {
        (1, _) => Channels::OnePage,
        (3, &[a, b, c]) if starts_with_channels && is_in_order => {
            permutation([a, b, c]).map_or_else(|| unclear("an OME-TIFF file", count), Channels::Colors)
        }
        _ => unclear("an OME-TIFF file", count),
    };
    Description { channels, significant_bits }
}

/// The colour of a channel of one sample, by its colour (RGBA as a signed number) or else its name.
fn color_of_channel(attributes: &str) -> Option<usize> {
    let is_single = attribute(attributes, "SamplesPerPixel").is_none_or(|samples| samples == "1");
    let by_name =
        attribute(attributes, "Name").and_then(|name| match name.trim().to_ascii_lowercase().as_str() {
            "red" | "r" => Some(0),
            "green" | "g" => Some(1),
            "blue" | "b" => Some(2),
            _ => None,
        });
    // White is what programs write that know of no colour.
    let color = attribute(attributes, "Color").filter(|&color| color != "-1");
    let color = color.map(|color| match color.parse::<i32>().map(|value| value as u32 >> 8) {
        Ok(0xFF_00_00) => Some(0),
        Ok(0x00_FF_00) => Some(1),
        Ok(0x00_00_FF) => Some(2),
        _ => None,
    });
    color.unwrap_or(by_name).filter(|_| is_single)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(color: usize) -> Vec<u8> {
        let mut lut = vec![0; 768];
        (0..=255_u8).for_each(|step| lut[color * 256 + usize::from(step)] = step);
        lut
    }

    #[test]
    fn a_composite_of_imagej_is_merged_only_where_its_colours_are_certain() {
        let text = |channels: u32, mode: &str| {
            format!("ImageJ=1.54f\nimages={channels}\nchannels={channels}\nmode={mode}\nloop=false\n")
        };
        let (red, green, blue) = (ramp(0), ramp(1), ramp(2));
        assert_eq!(imagej_channels(&text(3, "composite"), &[]), Channels::Colors([0, 1, 2]));
        let luts: [&[u8]; 3] = [&blue, &red, &green];
        assert_eq!(imagej_channels(&text(3, "composite"), &luts), Channels::Colors([2, 0, 1]));
        let luts: [&[u8]; 3] = [&red, &red, &blue];
        assert!(matches!(imagej_channels(&text(3, "composite"), &luts), Channels::Unclear(_)));
        assert!(matches!(imagej_channels(&text(3, "grayscale"), &[]), Channels::Unclear(_)));
        assert!(matches!(imagej_channels(&text(2, "composite"), &[]), Channels::Unclear(_)));
        assert_eq!(imagej_channels("ImageJ=1.54f\nimages=9\nslices=9\n", &[]), Channels::OnePage);
    }

    #[test]
    fn an_ome_tiff_is_merged_only_where_its_colours_are_certain() {
        let text = |attributes: &str, channels: [&str; 3], data: &str| {
            let channels: String =
                channels.iter().map(|channel| format!("<Channel ID=\"c\" {channel}/>")).collect();
            format!(
                "<?xml version=\"1.0\"?><OME><Image><Pixels {attributes}>{channels}{data}</Pixels></Image></OME>"
            )
        };
        let pixels = "DimensionOrder='XYCZT' SizeC=\"3\" SizeZ=\"1\" SizeT=\"1\" SignificantBits=\"12\"";
        let colors = ["Color=\"-16776961\"", "Color=\"16711935\"", "Color=\"65535\""];
        let names = ["Name=\"Red\"", "Name=\"G\"", "Name=\"blue\""];
        for channels in [colors, names] {
            let found = ome(&text(pixels, channels, "<TiffData IFD=\"0\" PlaneCount=\"3\"/>"));
            assert_eq!(
                found,
                Description { channels: Channels::Colors([0, 1, 2]), significant_bits: Some(12) }
            );
        }
        let unclear = [
            text(pixels, ["Name=\"DAPI\"", "Name=\"GFP\"", "Name=\"Cy5\""], "<TiffData/>"),
            text(pixels, ["", "", ""], "<TiffData/>"),
            text(pixels, colors, "<TiffData IFD=\"2\"/><TiffData IFD=\"1\"/><TiffData IFD=\"0\"/>"),
            text(
                &pixels.replace("XYCZT", "XYZCT").replace("SizeZ=\"1\"", "SizeZ=\"5\""),
                colors,
                "<TiffData/>",
            ),
            text(&pixels.replace("SizeC=\"3\"", "SizeC=\"4\""), colors, "<TiffData/>"),
        ];
        for text in unclear {
            assert!(matches!(ome(&text).channels, Channels::Unclear(_)), "{text}");
        }
        let one = text(&pixels.replace("SizeC=\"3\"", "SizeC=\"1\""), colors, "");
        assert_eq!(ome(&one).channels, Channels::OnePage);
    }

    #[test]
    fn the_shape_of_an_array_tells_channels_from_slices() {
        let channels = |text| tifffile_channels(text);
        assert_eq!(channels("{\"shape\": [64, 64, 3]}"), Channels::OnePage);
        assert_eq!(channels("{\"shape\": [7, 64, 64]}"), Channels::OnePage);
        assert_eq!(channels("{\"shape\": [3, 64, 64], \"axes\": \"ZYX\"}"), Channels::OnePage);
        assert_eq!(channels("a smear"), Channels::OnePage);
        assert!(matches!(channels("{\"shape\": [3, 64, 64]}"), Channels::Unclear(_)));
        assert!(matches!(channels("{\"shape\": [2, 64, 64], \"axes\": \"CYX\"}"), Channels::Unclear(_)));
    }
}
