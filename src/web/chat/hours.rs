//! When the team is there, as its settings say.

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

use crate::settings::Support;
use crate::web::texts::Texts;

/// Whether the team is there now, else when it is back, in words; none where no hours are set.
pub fn opening(support: &Support, t: &Texts) -> Option<String> {
    let zone = zone(support);
    opening_at(support, &Timestamp::now().to_zoned(zone), t)
}

fn zone(support: &Support) -> TimeZone {
    TimeZone::get(&support.timezone).unwrap_or_else(|_| TimeZone::system())
}

fn opening_at(support: &Support, now: &Zoned, t: &Texts) -> Option<String> {
    let (from, to) = minutes(&support.hours)?;
    let minute = i32::from(now.hour()) * 60 + i32::from(now.minute());
    if works_on(support, now.weekday()) && (from..to).contains(&minute) {
        return Some(t.chat_team_here.replace("{until}", &clock(to)));
    }
    // Today if it still opens, else the next day it does.
    let day = (0..8).find_map(|days| {
        let day = now.checked_add(Span::new().days(days)).ok()?;
        let later = days > 0 || minute < from;
        (later && works_on(support, day.weekday())).then_some((days, day))
    });
    let (days, day) = day?;
    let name = match days {
        0 => t.chat_today.to_owned(),
        1 => t.chat_tomorrow.to_owned(),
        _ => t.weekday(day.weekday()).to_owned(),
    };
    Some(t.chat_team_away.replace("{day}", &name).replace("{time}", &clock(from)))
}

fn works_on(support: &Support, day: Weekday) -> bool {
    let name = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"][day.to_monday_zero_offset() as usize];
    support.days.iter().any(|wanted| wanted.eq_ignore_ascii_case(name))
}

/// Minutes since midnight of "09:00-18:00"; none where it says nothing or nothing that makes sense.
pub fn minutes(hours: &str) -> Option<(i32, i32)> {
    let (from, to) = hours.split_once('-')?;
    let minute = |text: &str| {
        let (hour, minute) = text.trim().split_once(':')?;
        let (hour, minute) = (hour.parse::<i32>().ok()?, minute.parse::<i32>().ok()?);
        ((0..=24).contains(&hour) && (0..60).contains(&minute)).then_some(hour * 60 + minute)
    };
    let (from, to) = (minute(from)?, minute(to)?);
    (from < to && to <= 24 * 60).then_some((from, to))
}

fn clock(minutes: i32) -> String {
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::super::super::texts::EN;
    use super::*;

    fn at(text: &str) -> Option<String> {
        let support = Support {
            timezone: "Europe/Madrid".to_owned(),
            days: ["mon", "tue", "wed", "thu", "fri"].map(str::to_owned).to_vec(),
            hours: "09:00-18:00".to_owned(),
        };
        let now: Zoned = text.parse().ok()?;
        opening_at(&support, &now, &EN)
    }

    #[test]
    fn the_team_is_there_in_its_hours() {
        // A Wednesday.
        let said = at("2026-11-18T10:00[Europe/Madrid]").unwrap_or_default();
        assert!(said.contains("18:00"), "{said}");
        let early = at("2026-11-18T07:00[Europe/Madrid]").unwrap_or_default();
        assert!(early.contains("today") && early.contains("09:00"), "{early}");
        let late = at("2026-11-18T19:00[Europe/Madrid]").unwrap_or_default();
        assert!(late.contains("tomorrow"), "{late}");
        let friday = at("2026-11-20T19:00[Europe/Madrid]").unwrap_or_default();
        assert!(friday.contains("Monday"), "{friday}");
    }

    #[test]
    fn hours_that_make_no_sense_are_none() {
        assert_eq!(minutes("09:00-18:00"), Some((540, 1_080)));
        assert_eq!(minutes("00:00-24:00"), Some((0, 1_440)));
        for wrong in ["", "9-18", "18:00-09:00", "09:61-10:00", "25:00-26:00", "-"] {
            assert_eq!(minutes(wrong), None, "{wrong}");
        }
    }
}
