//! Times of stages from the service's own metrics.

use std::collections::BTreeMap;

/// Sums, counts and recent quantiles of the histograms of one name, by the value of their one label.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot(BTreeMap<String, Stage>);

/// One histogram, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Stage {
    sum: f64,
    count: f64,
    median: f64,
    p99: f64,
}

/// Mean and quantiles of one stage between two snapshots.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct StageTime {
    pub stage: String,
    pub count: u64,
    pub mean_ms: f64,
    /// Over the last minute, which is as far as the service's quantiles reach back.
    pub p50_ms: f64,
    pub p99_ms: f64,
}

impl Snapshot {
    /// Reads the lines of histogram `name` from a Prometheus text.
    pub fn read(text: &str, name: &str) -> Self {
        let mut stages: BTreeMap<String, Stage> = BTreeMap::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix(name) else { continue };
            let Some((kind, rest)) = rest.split_once('{') else { continue };
            let Some((labels, value)) = rest.split_once("} ") else { continue };
            let Ok(value) = value.trim().parse::<f64>() else { continue };
            // No value of a label of ours holds a comma.
            let labels: Vec<(&str, &str)> = labels
                .split(',')
                .filter_map(|label| label.split_once('='))
                .map(|(k, v)| (k, v.trim_matches('"')))
                .collect();
            let Some((_, of)) = labels.iter().find(|(key, _)| *key != "quantile") else { continue };
            let stage = stages.entry((*of).to_owned()).or_default();
            let quantile = labels.iter().find(|(key, _)| *key == "quantile").map(|(_, value)| *value);
            match (kind, quantile) {
                ("_sum", _) => stage.sum = value,
                ("_count", _) => stage.count = value,
                ("", Some("0.5")) => stage.median = value,
                ("", Some("0.99")) => stage.p99 = value,
                _ => {}
            }
        }
        Self(stages)
    }

    /// What happened between `earlier` and this.
    pub fn since(&self, earlier: &Self) -> Vec<StageTime> {
        let times = self.0.iter().filter_map(|(name, now)| {
            let before = earlier.0.get(name).copied().unwrap_or_default();
            let count = now.count - before.count;
            (count > 0.0).then(|| StageTime {
                stage: name.clone(),
                count: count as u64,
                mean_ms: 1_000.0 * (now.sum - before.sum) / count,
                p50_ms: 1_000.0 * now.median,
                p99_ms: 1_000.0 * now.p99,
            })
        });
        times.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_those_of_the_time_between() {
        let text = |sum: f64, count: u32| {
            format!(
                "# TYPE respondo_stage_seconds summary\n\
                 respondo_stage_seconds{{stage=\"embed\",quantile=\"0\"}} 0.001\n\
                 respondo_stage_seconds{{stage=\"embed\",quantile=\"0.5\"}} 0.02\n\
                 respondo_stage_seconds{{stage=\"embed\",quantile=\"0.99\"}} 0.05\n\
                 respondo_stage_seconds_sum{{stage=\"embed\"}} {sum}\n\
                 respondo_stage_seconds_count{{stage=\"embed\"}} {count}\n\
                 respondo_stage_seconds_count{{stage=\"draft\"}} 3\n\
                 respondo_sent_total{{channel=\"http\"}} 4\n"
            )
        };
        let read = |sum, count| Snapshot::read(&text(sum, count), "respondo_stage_seconds");
        let times = read(3.0, 110).since(&read(1.0, 10));
        assert_eq!(times.len(), 1, "a stage that did not run is left out: {times:?}");
        assert_eq!((times[0].stage.as_str(), times[0].count), ("embed", 100));
        assert!((times[0].mean_ms - 20.0).abs() < 1e-9 && (times[0].p99_ms - 50.0).abs() < 1e-9);
    }
}
