//! Times and figures as people read them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::texts::Texts;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// A length of time in its largest unit: "3 min", "5 h", "2 d".
pub fn span(seconds: i64, t: &Texts) -> String {
    let seconds = seconds.abs();
    match seconds {
        ..MINUTE => t.span_now.to_owned(),
        MINUTE..HOUR => format!("{} {}", seconds / MINUTE, t.span_minutes),
        HOUR..DAY => format!("{} {}", seconds / HOUR, t.span_hours),
        _ => format!("{} {}", seconds / DAY, t.span_days),
    }
}

/// How long ago something was.
pub fn age(then: Timestamp, t: &Texts) -> String {
    span(Timestamp::now().duration_since(then).as_secs(), t)
}

/// The time left until a moment, and whether it is over.
pub fn left(until: Timestamp, t: &Texts) -> (String, bool) {
    let seconds = until.duration_since(Timestamp::now()).as_secs();
    let over = seconds < 0;
    (if over { format!("{} {}", span(seconds, t), t.span_late) } else { span(seconds, t) }, over)
}

/// A number of hours in words: "40 min", "5 h", "3 d".
pub fn hours(hours: f32, t: &Texts) -> String {
    span((f64::from(hours) * 3_600.0).round().clamp(60.0, 1e9) as i64, t)
}

/// Day and minute in the machine's time zone, as ISO 8601 writes them.
pub fn moment(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
}

/// Bytes in a unit that suits them: "1 KiB", "1.4 MiB".
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{} MiB", format!("{:.1}", bytes as f64 / 1_048_576.0).trim_end_matches(".0")),
    }
}

/// A probability in whole percent.
pub fn percent(share: f32) -> String {
    format!("{:.0} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::super::texts::{EN, ES};
    use super::*;

    #[test]
    fn spans_are_told_in_their_largest_unit() {
        for (seconds, text) in
            [(0, "now"), (59, "now"), (60, "1 min"), (3_599, "59 min"), (3_600, "1 h"), (90_000, "1 d")]
        {
            assert_eq!(span(seconds, &EN), text);
        }
        assert_eq!(span(0, &ES), "ahora");
        assert_eq!(hours(0.0, &EN), "1 min");
        assert_eq!(hours(26.0, &EN), "1 d");
        assert_eq!(percent(0.666), "67 %");
        let sizes = [1, 1023, 1024, 1025, 1_500_000, 5 << 20].map(size);
        assert_eq!(sizes, ["1 B", "1023 B", "1 KiB", "2 KiB", "1.4 MiB", "5 MiB"]);
    }
}
