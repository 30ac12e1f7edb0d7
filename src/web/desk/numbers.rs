//! Figures for leads: what came in, what became of it, and what is asked and has no good answer.

use askama::Template;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use uuid::Uuid;

use super::Frame;
use super::queue::subject;
use crate::http::AppState;
use crate::pipeline::Pipeline;
use crate::store::{DayFigures, QueueFigures, Role, TicketCourse, Unanswered};
use crate::web::format::{percent, span};
use crate::web::page::{Page, PageError};
use crate::web::session::SignedIn;
use crate::web::texts::Texts;

const DAYS: u32 = 14;
/// Requests without an answer that are grouped, and groups that are shown.
const UNANSWERED: u32 = 150;
const GROUPS: usize = 12;
/// Least cosine similarity of two requests of one group: with the built-in model two requests at random have
/// 0.58 (99 % less than 0.75), each and its closest 0.80.
const SAME_TOPIC: f32 = 0.75;
/// Tickets read at once.
const PAGE: u32 = 1_000;
/// Size of the plot, in its own units.
const PLOT_HEIGHT: u64 = 120;
const BAR: u64 = 14;

/// One bar of the plot: parts from the bottom up.
pub struct Bar {
    pub label: String,
    pub total: u64,
    pub parts: Vec<Part>,
}

/// A piece of a bar.
pub struct Part {
    pub class: &'static str,
    pub x: u64,
    pub y: u64,
    pub height: u64,
}

/// Requests about one topic.
pub struct Group {
    pub count: usize,
    pub title: String,
    pub language: String,
    pub tickets: Vec<(Uuid, String)>,
}

#[derive(Template)]
#[template(path = "desk/numbers.html")]
struct NumbersPage {
    frame: Frame,
    t: &'static Texts,
    bars: Vec<Bar>,
    width: u64,
    asked: u64,
    unchanged: String,
    edited: String,
    rejected: String,
    escalated: String,
    automatic: u64,
    first_useful: String,
    first_useful_p90: String,
    queues: Vec<QueueFigures>,
    groups: Vec<Group>,
}

/// The page.
pub async fn page(signed_in: SignedIn, State(state): State<AppState>) -> Result<Response, PageError> {
    signed_in.at_least(Role::Lead)?;
    let (store, t) = (&state.pipeline.store, signed_in.t);
    let days = store.figures_by_day(DAYS).await?;
    let sum = |of: fn(&DayFigures) -> u64| days.iter().map(of).sum::<u64>();
    let decided = sum(|day| day.approved + day.edited + day.rejected + day.escalated);
    let share = |count: u64| if decided == 0 { "–".to_owned() } else { percent(count as f32 / decided as f32) };
    let waits = waits(&state.pipeline).await?;
    let told = |share: f64| quantile(&waits, share).map_or("–".to_owned(), |seconds| span(seconds, t));
    let page = NumbersPage {
        frame: Frame::of(&signed_in, "numbers"),
        t,
        bars: bars(&days),
        width: days.len() as u64 * (BAR + 6),
        asked: sum(|day| day.asked),
        unchanged: share(sum(|day| day.approved)),
        edited: share(sum(|day| day.edited)),
        rejected: share(sum(|day| day.rejected)),
        escalated: share(sum(|day| day.escalated)),
        automatic: sum(|day| day.automatic),
        first_useful: told(0.5),
        first_useful_p90: told(0.9),
        queues: store.figures_by_queue().await?,
        groups: groups(&state.pipeline, store.unanswered(UNANSWERED).await?, t).await,
    };
    Ok(Page(page).into_response())
}

/// Seconds from the request to the first reply that helped, of the tickets of the last days, sorted.
async fn waits(pipeline: &Pipeline) -> Result<Vec<i64>, PageError> {
    let since = Timestamp::now().as_second() - i64::from(DAYS) * 86_400;
    let (mut waits, mut after) = (Vec::new(), None);
    loop {
        let courses = pipeline.store.ticket_courses(after, PAGE).await?;
        let wait = |course: &TicketCourse| Some(course.useful_at?.duration_since(course.asked_at).as_secs());
        waits.extend(courses.iter().filter(|course| course.asked_at.as_second() >= since).filter_map(wait));
        match courses.last() {
            Some(course) => after = Some(course.id),
            None => break,
        }
    }
    waits.sort_unstable();
    Ok(waits)
}

fn quantile(sorted: &[i64], share: f64) -> Option<i64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((share * last as f64).round() as usize).copied()
}

fn bars(days: &[DayFigures]) -> Vec<Bar> {
    let of = |day: &DayFigures| {
        [
            ("automatic", day.automatic),
            ("approved", day.approved),
            ("edited", day.edited),
            ("rejected", day.rejected),
            ("escalated", day.escalated),
        ]
    };
    let most = days.iter().map(|day| of(day).iter().map(|(_, count)| count).sum::<u64>()).max().unwrap_or(0).max(1);
    let bar = |(position, day): (usize, &DayFigures)| {
        let x = position as u64 * (BAR + 6);
        let mut y = PLOT_HEIGHT;
        let parts = of(day).into_iter().filter(|(_, count)| *count > 0).map(|(class, count)| {
            let height = (count * PLOT_HEIGHT / most).max(1);
            y = y.saturating_sub(height);
            Part { class, x, y, height }
        });
        let at = Timestamp::from_second(day.day * 86_400).unwrap_or_default();
        let label = at.strftime("%m-%d").to_string();
        let parts: Vec<Part> = parts.collect();
        Bar { label, total: of(day).iter().map(|(_, count)| count).sum(), parts }
    };
    days.iter().enumerate().map(bar).collect()
}

/// Requests about the same thing together, largest group first. Without the embedding model each stands alone.
async fn groups(pipeline: &Pipeline, unanswered: Vec<Unanswered>, t: &Texts) -> Vec<Group> {
    let mut groups: Vec<(Option<Vec<f32>>, Group)> = Vec::new();
    for request in unanswered {
        let vector = pipeline.inference.embed_query(format!("{}\n{}", request.subject, request.body)).await.ok();
        let title = subject(&request.subject, &request.body, t);
        let close = groups.iter_mut().find(|(centre, _)| match (centre, &vector) {
            (Some(centre), Some(vector)) => cosine(centre, vector) >= SAME_TOPIC,
            _ => false,
        });
        match close {
            Some((_, group)) => {
                group.count += 1;
                group.tickets.push((request.ticket, title));
            }
            None => {
                let tickets = vec![(request.ticket, title.clone())];
                let language = request.language.code().to_owned();
                groups.push((vector, Group { count: 1, title, language, tickets }));
            }
        }
    }
    let mut groups: Vec<Group> = groups.into_iter().map(|(_, group)| group).collect();
    // Stable: the newest of equals stay first.
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    groups.truncate(GROUPS);
    groups
}

/// Vectors of the embedding model have length 1.
fn cosine(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_high_as_their_figures() {
        let day = |day, approved, edited| DayFigures { day, approved, edited, ..DayFigures::default() };
        let bars = bars(&[day(0, 0, 0), day(1, 1, 1), day(2, 4, 0)]);
        assert!(bars[0].parts.is_empty());
        assert_eq!(bars[1].parts.iter().map(|part| part.height).collect::<Vec<_>>(), [30, 30]);
        assert_eq!((bars[2].parts[0].y, bars[2].parts[0].height, bars[2].total), (0, 120, 4));
        assert_eq!(bars[2].label, "01-03");
    }

    #[test]
    fn quantiles_are_of_what_there_is() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[3], 0.9), Some(3));
        assert_eq!(quantile(&[1, 2, 3, 4, 5], 0.5), Some(3));
    }
}
