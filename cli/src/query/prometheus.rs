//! Reads metrics in Prometheus' text format (version 0.0.4). A line that cannot be read is passed over: the others are
//! still worth something.

/// Most samples of one page.
const MAX_SAMPLES: usize = 200_000;

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name, with the suffix of a histogram's part.
    pub name: String,
    /// Labels, in the page's order.
    pub labels: Vec<(String, String)>,
    /// Value.
    pub value: f64,
}

impl Sample {
    /// The value of a label; empty where it is not there.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

/// All samples of a page.
#[must_use]
pub fn parse(page: &str) -> Vec<Sample> {
    page.lines().filter_map(|line| sample(line.trim())).take(MAX_SAMPLES).collect()
}

/// `name{label="value",...} value [timestamp]`.
fn sample(line: &str) -> Option<Sample> {
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = number(rest.split_ascii_whitespace().next()?)?;
    Some(Sample { name: name.to_owned(), labels, value })
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        text => text.parse().ok(),
    }
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, after) = rest.split_once('=')?;
        let (value, after) = quoted(after.trim_start().strip_prefix('"')?)?;
        labels.push((name.trim().to_owned(), value));
        rest = after;
    }
}

/// A label's value up to its closing quote, with `\\`, `\"` and `\n` resolved, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read() {
        let page = "# HELP x of x\n# TYPE x counter\nx 1\nx{} 2 1700000000\n\
            x{a=\"b\", le=\"+Inf\",} 3.5e2\nx{quote=\"a\\\"b\\\\c\\nd}\"} NaN\nx{a=\"}{,=\"} +Inf\n";
        let samples = parse(page);
        assert_eq!(samples.len(), 5);
        assert_eq!((samples[0].value, samples[1].value, samples[2].value), (1.0, 2.0, 350.0));
        assert_eq!(samples[2].label("le"), "+Inf");
        assert_eq!(samples[3].label("quote"), "a\"b\\c\nd}");
        assert!(samples[3].value.is_nan());
        assert_eq!(samples[4].label("a"), "}{,=");
        assert_eq!(samples[4].label("none"), "");
    }

    #[test]
    fn an_exemplar_is_not_taken_for_the_value() {
        let samples = parse("x_bucket{le=\"0.1\"} 7 # {trace_id=\"abc\"} 0.05\n");
        assert_eq!((samples.len(), samples[0].value), (1, 7.0));
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        let page = "x{a=\"b\nx{a=b} 1\nx\nx y\n{a=\"b\"}\n{\n\u{0}\nx{a=\"\\\ngood 1\n";
        assert_eq!(parse(page).iter().map(|sample| sample.name.as_str()).collect::<Vec<_>>(), ["good"]);
    }

    #[test]
    fn what_the_exporter_of_the_mesh_writes_is_read() {
        use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

        let builder = PrometheusBuilder::new();
        let builder = builder.set_buckets_for_metric(Matcher::Full("took".into()), &[0.1, 1.0]).unwrap();
        let recorder = builder.build_recorder();
        metrics::with_local_recorder(&recorder, || {
            metrics::counter!("calls", "peer" => "a\"b\nc").increment(3);
            metrics::histogram!("took").record(0.5);
        });
        let samples = parse(&recorder.handle().render());
        let find = |name: &str, le: &str| samples.iter().find(|s| s.name == name && s.label("le") == le).unwrap();
        assert_eq!((find("calls", "").value, find("calls", "").label("peer")), (3.0, "a\"b\nc"));
        assert_eq!((find("took_bucket", "0.1").value, find("took_bucket", "1").value), (0.0, 1.0));
        assert_eq!(find("took_bucket", "+Inf").value, 1.0);
    }
}
