//! How far two people agree on labels.

use std::fmt;

use super::{Label, What, current};

/// How far two people agree.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    pub what: What,
    /// Cases that both have labelled.
    pub both: usize,
    /// Share of them with the same label.
    pub raw: Option<f64>,
    /// Cohen's kappa, with quadratic weights where the labels are ordered; None where chance alone would agree always.
    pub kappa: Option<f64>,
    /// Counts, `table[a][b]`, in the order of the choices.
    pub table: Vec<Vec<usize>>,
}

/// Compares the labels of two people on the cases that both have labelled (same text).
pub fn agreement(what: What, a: &[Label], b: &[Label]) -> Agreement {
    let of_kind = |labels: &[Label]| {
        let mut labels = current(labels);
        labels.retain(|_, label| label.what == what);
        labels
    };
    let (a, b) = (of_kind(a), of_kind(b));
    let class = |label: &Label| what.class(label.label.as_deref()?);
    let count = what.choices().len();
    let mut table = vec![vec![0; count]; count];
    for (key, one) in &a {
        let pair = class(one).zip(b.get(key).and_then(class));
        if let Some(cell) = pair.and_then(|(a, b)| table.get_mut(a)?.get_mut(b)) {
            *cell += 1;
        }
    }
    let both: usize = table.iter().flatten().sum();
    let same: usize = table.iter().enumerate().filter_map(|(at, row)| row.get(at)).sum();
    let raw = (both > 0).then(|| same as f64 / both as f64);
    Agreement { what, both, raw, kappa: kappa(&table, what.is_ordered()), table }
}

/// Cohen's kappa of a square table (Cohen 1960); misses weigh their squared distance where the classes are ordered
/// (Cohen 1968). None where the table is empty or no disagreement could be expected by chance.
pub(in crate::eval) fn kappa(table: &[Vec<usize>], ordered: bool) -> Option<f64> {
    let total: usize = table.iter().flatten().sum();
    let (mut seen, mut chance) = (0.0, 0.0);
    for (a, row) in table.iter().enumerate() {
        for (b, count) in row.iter().enumerate() {
            let distance = a.abs_diff(b) as f64;
            let weight = if ordered { distance * distance } else { f64::from(u8::from(a != b)) };
            let in_row: usize = row.iter().sum();
            let in_column: usize = table.iter().filter_map(|row| row.get(b)).sum();
            seen += weight * *count as f64;
            chance += weight * in_row as f64 * in_column as f64 / total.max(1) as f64;
        }
    }
    (chance > 0.0).then(|| 1.0 - seen / chance)
}

impl fmt::Display for Agreement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(raw) = self.raw else {
            return write!(out, "{}: no case was labelled by both", self.what.name());
        };
        let weights = if self.what.is_ordered() { "quadratic weights" } else { "no weights" };
        let kappa = self.kappa.map_or("undefined (both used one label only)".to_owned(), |kappa| format!("{kappa:.3}"));
        let (name, both) = (self.what.name(), self.both);
        writeln!(out, "{name}: {both} cases labelled by both, {:.1} % alike, kappa {kappa} ({weights})", raw * 100.0)?;
        let names: Vec<&str> = self.what.choices().iter().map(|(_, name, _)| *name).collect();
        write!(out, "{:>14}", "first \\ second")?;
        names.iter().try_for_each(|name| write!(out, " {name:>12}"))?;
        for (name, row) in names.iter().zip(&self.table) {
            write!(out, "\n{name:>14}")?;
            row.iter().try_for_each(|count| write!(out, " {count:>12}"))?;
        }
        Ok(())
    }
}
