//! Form of results on stdout and in files: tables, JSON lines, and CSV for spreadsheets of any locale.
//!
//! No cell of a CSV begins a formula, and its numbers are numbers in a locale that uses its separator.

use std::io::Write;

use anyhow::anyhow;

use super::Failed;
use super::output::{csv_error, neutralised};

/// Columns of numbers with decimals.
const DECIMALS: &[&str] = &[
    "confidence",
    "outlier_score",
    "parasitemia_percent",
    "parasitemia_low_percent",
    "parasitemia_high_percent",
];

/// Marks a text as UTF-8 for Excel, which otherwise reads `été` as `Ã©tÃ©`.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Form of the output.
#[derive(Debug, clap::Args)]
pub struct FormArguments {
    /// Form of the output on stdout.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    csv: CsvArguments,
}

/// Form of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// One record a line, as in docs/record.schema.json.
    Json,
    /// For spreadsheets.
    Csv,
}

/// How a CSV is written.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct CsvArguments {
    /// Separator of CSV cells. Excel expects ; in languages with decimal commas, such as German and French; with ;
    /// decimals have a comma as well.
    #[arg(long, value_enum, value_name = "SEPARATOR")]
    separator: Option<Separator>,
    /// Begin a CSV with a byte order mark, so that Excel reads it as UTF-8.
    #[arg(long)]
    bom: bool,
}

/// What separates cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Separator {
    /// The default.
    #[value(name = ",")]
    Comma,
    /// With decimal commas.
    #[value(name = ";")]
    Semicolon,
    /// A tab.
    Tab,
}

/// A form, with all its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Table,
    /// One document a line.
    Json,
    /// For spreadsheets.
    Csv(CsvStyle),
}

/// How a CSV is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CsvStyle {
    separator: Separator,
    has_byte_order_mark: bool,
}

impl FormArguments {
    /// The form.
    ///
    /// # Errors
    /// [`Failed::Usage`] if an option for CSV is given without CSV.
    pub fn form(&self) -> Result<Form, Failed> {
        let style = self.csv.style(self.format == Format::Csv)?;
        Ok(match self.format {
            Format::Table => Form::Table,
            Format::Json => Form::Json,
            Format::Csv => Form::Csv(style),
        })
    }
}

impl CsvArguments {
    /// The style of a CSV.
    ///
    /// # Errors
    /// [`Failed::Usage`] if it is given and no CSV is asked for.
    pub fn style(self, is_csv: bool) -> Result<CsvStyle, Failed> {
        let given = if self.separator.is_some() { Some("--separator") } else { self.bom.then_some("--bom") };
        if let Some(given) = given.filter(|_| !is_csv) {
            return Err(Failed::Usage(anyhow!("{given} applies only to CSV; add --format csv")));
        }
        Ok(CsvStyle { separator: self.separator.unwrap_or(Separator::Comma), has_byte_order_mark: self.bom })
    }
}

/// Writes rows of a CSV by RFC 4180, or as its style says.
pub struct CsvWriter<W: Write> {
    csv: csv::Writer<W>,
    /// Which columns get decimal commas.
    with_decimal_comma: Vec<bool>,
}

impl<W: Write> CsvWriter<W> {
    /// Begins with the header.
    pub fn new<S: AsRef<str>>(
        mut out: W,
        style: CsvStyle,
        header: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Self> {
        if style.has_byte_order_mark {
            out.write_all(BYTE_ORDER_MARK.as_bytes())?;
        }
        let delimiter = match style.separator {
            Separator::Comma => b',',
            Separator::Semicolon => b';',
            Separator::Tab => b'\t',
        };
        let mut csv = csv::WriterBuilder::new();
        let mut csv = csv.delimiter(delimiter).terminator(csv::Terminator::CRLF).from_writer(out);
        let header: Vec<S> = header.into_iter().collect();
        csv.write_record(header.iter().map(|cell| neutralised(cell.as_ref()))).map_err(csv_error)?;
        let has_decimal_comma = style.separator == Separator::Semicolon;
        let of_column = |name: &S| has_decimal_comma && DECIMALS.contains(&name.as_ref());
        Ok(Self { csv, with_decimal_comma: header.iter().map(of_column).collect() })
    }

    /// Writes a row.
    pub fn write(&mut self, cells: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
        let cells = cells.into_iter().zip(&self.with_decimal_comma).map(|(cell, with_comma)| {
            let cell = neutralised(&cell);
            if *with_comma { cell.replace('.', ",") } else { cell }
        });
        self.csv.write_record(cells).map_err(csv_error)
    }

    /// Makes visible what was written.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.csv.flush()?)
    }

    /// Writes what is left, and returns what it wrote to.
    pub fn finish(self) -> anyhow::Result<W> {
        self.csv.into_inner().map_err(|error| error.into_error().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(separator: Option<Separator>, bom: bool) -> String {
        let style = CsvArguments { separator, bom }.style(true).unwrap();
        let mut csv = CsvWriter::new(Vec::new(), style, ["slide", "confidence", "outlier_score"]).unwrap();
        csv.write(["1.5".to_owned(), "0.984000".to_owned(), "-1.5".to_owned()]).unwrap();
        csv.write(["a,b;c".to_owned(), String::new(), "=x".to_owned()]).unwrap();
        String::from_utf8(csv.finish().unwrap()).unwrap()
    }

    #[test]
    fn each_separator_has_the_decimals_that_its_spreadsheets_read() {
        for (separator, expected) in [
            (None, "slide,confidence,outlier_score\r\n1.5,0.984000,-1.5\r\n\"a,b;c\",,'=x\r\n"),
            (
                Some(Separator::Semicolon),
                "slide;confidence;outlier_score\r\n1.5;0,984000;-1,5\r\n\"a,b;c\";;'=x\r\n",
            ),
            (
                Some(Separator::Tab),
                "slide\tconfidence\toutlier_score\r\n1.5\t0.984000\t-1.5\r\na,b;c\t\t'=x\r\n",
            ),
        ] {
            assert_eq!(written(separator, false), expected);
            assert_eq!(written(separator, true), format!("\u{feff}{expected}"));
        }
    }

    #[test]
    fn what_is_said_of_a_csv_needs_one() {
        for (separator, bom, named) in [(Some(Separator::Tab), false, "--separator"), (None, true, "--bom")] {
            let Err(Failed::Usage(error)) = (CsvArguments { separator, bom }).style(false) else { panic!() };
            assert!(
                error.to_string().contains(named) && error.to_string().contains("--format csv"),
                "{error}"
            );
        }
        assert!(CsvArguments { separator: None, bom: false }.style(false).is_ok());
    }
}
