//! The numbers of a part: one row per case, one column per measurement.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

/// Who a row is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Unique in its part.
    pub id: String,
    /// The slices that it counts in, beside `all`: `language=es`, `queue=billing`, or a name of the data set's own.
    pub slices: Vec<String>,
}

/// Rows and columns. What a case has no value for is None: it does not count in figures over that column.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub rows: Vec<Row>,
    /// As many values each as there are rows.
    pub columns: BTreeMap<String, Vec<Option<f64>>>,
}

/// Six decimals: more than any figure shows, and files stay small.
const SCALE: f64 = 1e6;

impl Table {
    /// Adds a case. A value that is no finite number counts as missing.
    pub fn push(&mut self, row: Row, values: &BTreeMap<String, f64>) {
        let before = self.rows.len();
        for (name, value) in values {
            let column = self.columns.entry(name.clone()).or_insert_with(|| vec![None; before]);
            column.push(value.is_finite().then(|| (value * SCALE).round() / SCALE));
        }
        for column in self.columns.values_mut().filter(|column| column.len() == before) {
            column.push(None);
        }
        self.rows.push(row);
    }

    /// The values of a column; None where no case has one.
    pub fn column(&self, name: &str) -> Option<&[Option<f64>]> {
        self.columns.get(name).map(Vec::as_slice)
    }

    /// Positions of the rows of a slice.
    pub fn slice(&self, name: &str) -> Vec<usize> {
        let belongs = |row: &Row| name == super::suite::ALL || row.slices.iter().any(|slice| slice == name);
        (0..self.rows.len()).filter(|at| belongs(&self.rows[*at])).collect()
    }

    /// `all`, then every slice that a row names, in order.
    pub fn slices(&self) -> Vec<String> {
        let named: BTreeSet<&String> = self.rows.iter().flat_map(|row| &row.slices).collect();
        std::iter::once(super::suite::ALL.to_owned()).chain(named.into_iter().cloned()).collect()
    }

    /// Only these columns.
    pub fn only(&self, columns: &BTreeSet<String>) -> Self {
        let columns = self.columns.iter().filter(|(name, _)| columns.contains(*name));
        Self {
            rows: self.rows.clone(),
            columns: columns.map(|(name, values)| (name.clone(), values.clone())).collect(),
        }
    }

    /// Positions of the same cases in both tables: (here, there).
    pub fn shared(&self, other: &Self) -> Vec<(usize, usize)> {
        let there: HashMap<&str, usize> =
            other.rows.iter().enumerate().map(|(at, row)| (row.id.as_str(), at)).collect();
        self.rows.iter().enumerate().filter_map(|(at, row)| Some((at, *there.get(row.id.as_str())?))).collect()
    }

    /// A table of the rows at these positions, in that order.
    pub fn pick(&self, positions: &[usize]) -> Self {
        let columns = self.columns.iter().map(|(name, values)| {
            (name.clone(), positions.iter().map(|at| values.get(*at).copied().flatten()).collect())
        });
        Self {
            rows: positions.iter().filter_map(|at| self.rows.get(*at).cloned()).collect(),
            columns: columns.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, slices: &[&str]) -> Row {
        Row { id: id.into(), slices: slices.iter().map(|slice| (*slice).into()).collect() }
    }

    fn values(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
        pairs.iter().map(|(name, value)| ((*name).into(), *value)).collect()
    }

    #[test]
    fn columns_grow_with_gaps_where_a_case_has_no_value() {
        let mut table = Table::default();
        table.push(row("a", &["language=en"]), &values(&[("x", 1.0)]));
        table.push(row("b", &["language=es"]), &values(&[("y", 0.123_456_78)]));
        table.push(row("c", &["language=es"]), &values(&[("x", f64::NAN), ("y", 2.0)]));
        assert_eq!(table.column("x"), Some(&[Some(1.0), None, None][..]));
        assert_eq!(table.column("y"), Some(&[None, Some(0.123_457), Some(2.0)][..]));
        assert_eq!(table.slices(), ["all", "language=en", "language=es"]);
        assert_eq!(table.slice("language=es"), [1, 2]);
        let text = serde_json::to_string(&table).expect("JSON");
        assert_eq!(serde_json::from_str::<Table>(&text).expect("the same"), table);
    }

    #[test]
    fn shared_cases_are_found_by_id_in_any_order() {
        let mut one = Table::default();
        let mut other = Table::default();
        for id in ["a", "b", "c"] {
            one.push(row(id, &[]), &values(&[("x", 1.0)]));
        }
        for id in ["c", "d", "a"] {
            other.push(row(id, &[]), &values(&[("x", 2.0)]));
        }
        assert_eq!(one.shared(&other), [(0, 2), (2, 0)]);
        assert_eq!(one.pick(&[2, 0]).rows[0].id, "c");
    }
}
