//! `giemsa cost`: what images cost on AWS, and which limit is exceeded at which upload rate.
//!
//! A test compares docs/cost.md with what this prints.

use std::io::Write;

use anyhow::anyhow;
use giemsa_core::price::{Charge, Estimate, PRICES_AS_OF, PRICES_REGION};
use giemsa_ops::cost::{
    Alternative, Assumptions, Bill, CROPS, FIELDS, Limit, Preset, RATES, RateReport, Workload, alternatives,
    bill, by_service, simulate,
};
use serde::Serialize;

use super::processors::Processors;
use super::{Failed, output};

/// Upper bound of the number of images and of every other number.
const MAX_NUMBER: f64 = 1e12;

/// How much longer a handler in Python takes if nothing was measured: as for crops.
const DEFAULT_PYTHON: f64 = CROPS.python_ms / CROPS.image_ms;

/// Share of the images with the most frequent label, and share that needs a review, for the rates.
const COMMON_LABEL: f64 = 0.9;
const REVIEWED: f64 = 0.1;

#[derive(Debug, clap::Args)]
pub(super) struct CostArguments {
    /// How many images, such as 1e6.
    #[arg(long, default_value = "1e6", value_parser = parse_count, allow_negative_numbers = true)]
    images: f64,
    /// Measured images; --size-mb and --ms override their figures.
    #[arg(long, value_enum)]
    preset: Option<Kind>,
    /// Size of one image file, MB.
    #[arg(long, value_parser = parse_positive, allow_negative_numbers = true)]
    size_mb: Option<f64>,
    /// Milliseconds of one image on one processor, from download to score.
    #[arg(long, value_parser = parse_positive, allow_negative_numbers = true)]
    ms: Option<f64>,
    /// Memory of the function, MB.
    #[arg(long, default_value_t = 1769, value_parser = clap::value_parser!(u32).range(128..=10_240))]
    memory_mb: u32,
    /// Processors of the function.
    #[arg(long, value_enum, default_value_t = Processors::Arm64)]
    architecture: Processors,
    /// Stages that answer each image: 2 are production and development.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=10))]
    stages: u32,
    /// Images of one invocation.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Months that images are kept in the bucket; 0 leaves that out.
    #[arg(long, default_value = "1", value_parser = parse_months, allow_negative_numbers = true)]
    image_months: f64,
    /// Months that results are kept in the table and the bucket; 0 leaves that out.
    #[arg(long, default_value = "1", value_parser = parse_months, allow_negative_numbers = true)]
    result_months: f64,
    /// Show which account limit is hit first at 1 to 10,000 images a second, by a simulation.
    #[arg(long)]
    rates: bool,
    /// Images of one slide, for --rates.
    #[arg(long, default_value_t = 500, requires = "rates", value_parser = clap::value_parser!(u32).range(1..))]
    slide_images: u32,
    /// Highest upload rate of one slide, images a second, for --rates.
    #[arg(long, default_value_t = 50, requires = "rates", value_parser = clap::value_parser!(u32).range(1..))]
    slide_rate: u32,
    /// Seed of the simulation.
    #[arg(long, default_value_t = 1, requires = "rates")]
    seed: u64,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

/// Images that were measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// PNG files of one cell each, 17 KB.
    Crops,
    /// JPEG files of 12 megapixels, 2.1 MB.
    Fields,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document<'a> {
    workload: &'a Workload,
    #[serde(flatten)]
    bill: &'a Bill,
    usd_per_million: f64,
    ways: &'a [Alternative],
}

/// What `--rates --json` prints.
#[derive(Debug, Serialize)]
struct RatesDocument<'a> {
    assumptions: &'a Assumptions,
    rates: &'a [RateReport],
}

/// Prints the bill or the rates.
pub(super) fn run(arguments: &CostArguments) -> Result<(), Failed> {
    let workload = workload(arguments)?;
    let text = if arguments.rates {
        let assumptions = assumptions(arguments, &workload);
        let reports = RATES.iter().map(|rate| simulate(*rate, &assumptions));
        let reports = reports.collect::<Result<Vec<_>, _>>().map_err(|error| anyhow!(error))?;
        match arguments.json {
            true => json(&RatesDocument { assumptions: &assumptions, rates: &reports })?,
            false => shown_rates(&assumptions, &reports),
        }
    } else {
        let (bill, ways) = (bill(&workload), alternatives(&workload));
        let usd_per_million = bill.images.total_usd / workload.images * 1e6;
        match arguments.json {
            true => json(&Document { workload: &workload, bill: &bill, usd_per_million, ways: &ways })?,
            false => shown_bill(&workload, arguments.ms.is_none(), &bill, &ways),
        }
    };
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(anyhow::Error::from)?;
    Ok(())
}

fn json(document: &impl Serialize) -> Result<String, Failed> {
    Ok(serde_json::to_string_pretty(document).map_err(anyhow::Error::from)? + "\n")
}

fn workload(arguments: &CostArguments) -> Result<Workload, Failed> {
    let preset = arguments.preset.map(|kind| match kind {
        Kind::Crops => CROPS,
        Kind::Fields => FIELDS,
    });
    let of_preset = |value: fn(&Preset) -> f64| preset.as_ref().map(value);
    let image_ms = arguments.ms.or(of_preset(|preset| preset.image_ms));
    let size_mb = arguments.size_mb.or(of_preset(|preset| preset.size_mb));
    let (Some(image_ms), Some(size_mb)) = (image_ms, size_mb) else {
        let missing = if image_ms.is_none() { "how long an image takes" } else { "how large an image is" };
        return Err(Failed::Usage(anyhow!(
            "{missing} is not given; expected --preset crops, --preset fields, or both --size-mb and --ms"
        )));
    };
    let python = preset.map_or(DEFAULT_PYTHON, |preset| preset.python_ms / preset.image_ms);
    Ok(Workload {
        images: arguments.images,
        size_mb,
        image_ms,
        python_ms: image_ms * python,
        memory_mb: arguments.memory_mb,
        architecture: arguments.architecture.into(),
        stages: arguments.stages,
        batch: arguments.batch,
        image_months: arguments.image_months,
        result_months: arguments.result_months,
    })
}

fn assumptions(arguments: &CostArguments, workload: &Workload) -> Assumptions {
    Assumptions {
        seed: arguments.seed,
        image_ms: workload.image_ms,
        batch: workload.batch,
        stages: workload.stages,
        slide_images: arguments.slide_images,
        slide_rate: arguments.slide_rate,
        common_label: COMMON_LABEL,
        reviewed: REVIEWED,
    }
}

fn parse_positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= MAX_NUMBER => Ok(number),
        Ok(_) => Err("expected a number above 0 and up to 1e12".to_owned()),
        Err(_) => Err("expected a number above 0, such as 2.5, 1000000 or 1e6".to_owned()),
    }
}

fn parse_count(text: &str) -> Result<f64, String> {
    match parse_positive(text)? {
        number if number.fract() == 0.0 => Ok(number),
        _ => Err("expected whole images, such as 1000000 or 1e6".to_owned()),
    }
}

fn parse_months(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(months) if (0.0..=1_200.0).contains(&months) => Ok(months),
        _ => Err("expected months from 0 to 1200, such as 1 or 0.5".to_owned()),
    }
}

fn shown_bill(workload: &Workload, is_measured: bool, bill: &Bill, ways: &[Alternative]) -> String {
    let mut text = format!(
        "{} images of {} MB, {} ms each, answered by {} in batches of {};\na function of {} MB on {}. List prices of {}, \
         {}, in US dollars, without discounts, free tier and tax.\n\n",
        grouped(workload.images),
        workload.size_mb,
        workload.image_ms,
        counted(workload.stages, "stage"),
        workload.batch,
        grouped(workload.memory_mb.into()),
        workload.architecture.name(),
        PRICES_REGION,
        PRICES_AS_OF,
    );
    let is_million = workload.images == 1e6;
    let mut table = output::new_table(["service", "these images", "a million", "made of"]);
    for (service, usd) in by_service(&bill.images) {
        let lines = bill.images.lines.iter().filter(|line| line.charge.price().service == service);
        let made_of: Vec<String> = lines
            .map(|line| {
                let name = line.charge.price().name.trim_start_matches(service.name()).trim_start();
                format!("{} {name}", quantity(line.charge, line.quantity))
            })
            .collect();
        let million = usd / workload.images * 1e6;
        table.add_row([service.name().to_owned(), dollars(usd), dollars(million), made_of.join("; ")]);
    }
    let total = bill.images.total_usd;
    table.add_row([
        "in all".to_owned(),
        dollars(total),
        dollars(total / workload.images * 1e6),
        String::new(),
    ]);
    output::align_right(&mut table, &[1, 2]);
    if is_million && let Some(column) = table.column_mut(1) {
        column.set_constraint(comfy_table::ColumnConstraint::Hidden);
    }
    push_lines(&mut text, &table.trim_fmt());
    text.push_str(&format!(
        "\nA month in which nothing arrives costs {}: {}.\n\n",
        dollars(bill.idle_month.total_usd),
        quantities(&bill.idle_month)
    ));
    let mut table = output::new_table(["the same images by", "computing", "the rest", "in all"]);
    for way in ways {
        table.add_row([
            way.name.to_owned(),
            dollars(way.compute_usd),
            dollars(way.rest_usd),
            dollars(way.total_usd()),
        ]);
    }
    output::align_right(&mut table, &[1, 2, 3]);
    push_lines(&mut text, &table.trim_fmt());
    text.push('\n');
    for way in ways {
        text.push_str(&format!("{}: {}\n", way.name, way.assumption));
    }
    if is_measured {
        text.push_str(
            "Milliseconds are those of benches/results/, measured on one x86_64 processor; arm64 was not measured.\n",
        );
    }
    text
}

fn shown_rates(assumptions: &Assumptions, reports: &[RateReport]) -> String {
    let mut text = format!(
        "Uploads of slides of {} images at {} images a second each at most, {} ms an image, {}, batches of {}, seed {}.\n\
         Share of each limit that is used, by images a second; above 100 % it is exceeded. Defaults of {PRICES_REGION}.\n\n",
        assumptions.slide_images,
        assumptions.slide_rate,
        assumptions.image_ms,
        counted(assumptions.stages, "stage"),
        assumptions.batch,
        assumptions.seed,
    );
    let mut header = vec!["limit".to_owned(), "default".to_owned()];
    header.extend(reports.iter().map(|report| grouped(report.rate.into())));
    let mut table = output::new_table::<0>([]);
    table.set_header(header);
    let limits = reports.first().map(|report| &report.uses[..]).unwrap_or_default();
    for (index, used) in limits.iter().enumerate() {
        let mut row = vec![used.limit.name.to_owned(), grouped(used.limit.value)];
        row.extend(reports.iter().map(|report| percent(report.uses[index].part())));
        table.add_row(row);
    }
    let mut row = vec!["Seconds until no image waits, MaxConcurrency raised".to_owned(), String::new()];
    row.extend(reports.iter().map(|report| report.caught_up_s.map_or("never".to_owned(), |s| s.to_string())));
    table.add_row(row);
    let columns: Vec<usize> = (1..2 + reports.len()).collect();
    output::align_right(&mut table, &columns);
    push_lines(&mut text, &table.trim_fmt());
    text.push('\n');
    for report in reports {
        let rate = grouped(report.rate.into());
        match report.given().first() {
            None => text.push_str(&format!("{rate} images a second: no limit is exceeded.\n")),
            Some(first) => text.push_str(&format!(
                "{rate} images a second: the first limit exceeded is \
                {}.\n",
                first.limit.name
            )),
        }
    }
    text.push_str("\nLimits in the order in which they are exceeded, and what raises them:\n");
    if let Some(report) = reports.last() {
        for used in report.given() {
            let gives_at = grouped((f64::from(report.rate) / used.part()).floor());
            let Limit { name, setting, .. } = used.limit;
            text.push_str(&format!("- about {gives_at} a second: {name}: {setting}.\n"));
        }
    }
    text
}

/// Adds the lines of a table without blanks at their ends.
fn push_lines(text: &mut String, table: &str) {
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn quantities(estimate: &Estimate) -> String {
    let lines = estimate.lines.iter();
    let shown =
        lines.map(|line| format!("{} {}", quantity(line.charge, line.quantity), line.charge.price().name));
    shown.collect::<Vec<_>>().join(", ")
}

fn quantity(charge: Charge, quantity: f64) -> String {
    let is_measure = charge.price().per == 1.0 && quantity < 1_000.0 && quantity.fract() != 0.0;
    if is_measure { format!("{quantity:.1}") } else { grouped(quantity.round()) }
}

fn percent(part: f64) -> String {
    match 100.0 * part {
        percent if percent > 0.0 && percent < 0.5 => "< 1 %".to_owned(),
        percent => format!("{} %", grouped(percent.round())),
    }
}

fn dollars(usd: f64) -> String {
    if usd >= 1_000.0 { grouped(usd.round()) } else { format!("{usd:.2}") }
}

fn counted(count: u32, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// A whole number with commas between thousands.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use giemsa_core::price::Architecture;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        cost: CostArguments,
    }

    fn parsed(arguments: &str) -> Result<CostArguments, String> {
        let words = std::iter::once("cost").chain(arguments.split_whitespace());
        Command::try_parse_from(words).map(|command| command.cost).map_err(|error| error.to_string())
    }

    fn printed(arguments: &str) -> String {
        let arguments = parsed(arguments).unwrap();
        let workload = workload(&arguments).unwrap();
        if arguments.rates {
            let assumptions = assumptions(&arguments, &workload);
            let reports: Vec<RateReport> =
                RATES.iter().map(|rate| simulate(*rate, &assumptions).unwrap()).collect();
            shown_rates(&assumptions, &reports)
        } else {
            shown_bill(&workload, arguments.ms.is_none(), &bill(&workload), &alternatives(&workload))
        }
    }

    /// Blocks of a document that start with a command of ours, with what follows it. Where they differ, the document as it
    /// should be is left in `target/documents/`.
    #[test]
    fn the_documents_show_what_is_printed() {
        let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let text = std::fs::read_to_string(root.join("docs/cost.md")).unwrap();
        let (mut found, mut renewed) = (0, String::new());
        for (index, part) in text.split("```").enumerate() {
            let block = part.strip_prefix("\n$ giemsa cost ").filter(|_| index % 2 == 1);
            let part = match block.and_then(|block| block.split_once('\n')) {
                None => part.to_owned(),
                Some((arguments, _)) => {
                    found += 1;
                    format!("\n$ giemsa cost {arguments}\n{}", printed(arguments))
                }
            };
            renewed.push_str(if index == 0 { "" } else { "```" });
            renewed.push_str(&part);
        }
        assert_eq!(found, 4);
        if renewed != text {
            let renewed_path = root.join("target/documents/cost.md");
            std::fs::create_dir_all(root.join("target/documents")).unwrap();
            std::fs::write(&renewed_path, &renewed).unwrap();
            panic!("docs/cost.md differs from what is printed now: take {}", renewed_path.display());
        }

        let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
        let crops = printed("--preset crops");
        let total = crops.lines().find_map(|line| line.trim().strip_prefix("in all ")).unwrap().trim();
        assert!(
            readme.contains(&format!("cost {total} US dollars")),
            "README.md: a million crops cost {total}"
        );

        let text = std::fs::read_to_string(root.join("docs/cost.md")).unwrap();
        for price in giemsa_core::price::PRICES {
            assert!(text.contains(price.source), "docs/cost.md lacks {}", price.source);
        }
        for fact in [PRICES_AS_OF, PRICES_REGION] {
            assert!(text.contains(fact), "docs/cost.md lacks {fact}");
        }
    }

    #[test]
    fn numbers_are_checked_and_may_be_written_short() {
        assert_eq!(parsed("--preset crops --images 1e6").unwrap().images, 1e6);
        assert_eq!(parsed("--preset crops --images 250").unwrap().images, 250.0);
        for (arguments, expected) in [
            ("--preset crops --images -3", "above 0"),
            ("--preset crops --images 0", "above 0"),
            ("--preset crops --images 1.5", "whole images"),
            ("--preset crops --images many", "such as 2.5, 1000000 or 1e6"),
            ("--preset crops --images 1e13", "up to 1e12"),
            ("--preset crops --images NaN", "above 0"),
            ("--preset crops --ms -1", "above 0"),
            ("--preset crops --result-months -1", "months from 0"),
            ("--preset crops --stages 0", "1..=10"),
            ("--preset crops --memory-mb 64", "128..=10240"),
        ] {
            let message = parsed(arguments).expect_err(arguments);
            assert!(message.contains(expected), "{arguments}: {message}");
        }
        for (arguments, expected) in
            [("--size-mb 2", "how long"), ("--ms 2", "how large"), ("", "--preset crops")]
        {
            let Err(Failed::Usage(error)) = workload(&parsed(arguments).unwrap()) else {
                panic!("{arguments}")
            };
            assert!(error.to_string().contains(expected), "{arguments}: {error}");
        }
    }

    #[test]
    fn a_figure_takes_the_place_of_the_presets() {
        let found =
            workload(&parsed("--preset fields --ms 200 --stages 1 --architecture x86_64").unwrap()).unwrap();
        assert_eq!((found.image_ms, found.size_mb, found.stages), (200.0, FIELDS.size_mb, 1));
        assert_eq!(found.architecture, Architecture::X86_64);
        assert!((found.python_ms - 200.0 * FIELDS.python_ms / FIELDS.image_ms).abs() < 1e-9);
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, shown) in [(0.0, "0"), (999.0, "999"), (1_000.0, "1,000"), (1_234_567.0, "1,234,567")] {
            assert_eq!(grouped(number), shown);
        }
    }
}
