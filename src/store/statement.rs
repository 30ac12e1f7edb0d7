//! A statement put together from pieces, with its bound values.

use std::fmt::Display;

use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, Arguments, Encode, Type};

/// Text and values; [`sqlx::QueryBuilder`] writes placeholders that only one of the two databases understands.
pub(super) struct Statement<'q> {
    sql: String,
    arguments: AnyArguments<'q>,
}

impl<'q> Statement<'q> {
    pub(super) fn new(sql: &str) -> Self {
        Self { sql: sql.to_owned(), arguments: AnyArguments::default() }
    }

    /// Appends SQL; never what somebody wrote.
    pub(super) fn push(&mut self, sql: impl Display) -> &mut Self {
        self.sql.push_str(&sql.to_string());
        self
    }

    /// Appends a value.
    pub(super) fn push_bind<T>(&mut self, value: T) -> &mut Self
    where
        T: 'q + Encode<'q, Any> + Type<Any>,
    {
        // Only what cannot be encoded fails, and then the database misses the value and says so.
        drop(self.arguments.add(value));
        let number = self.arguments.len();
        self.push(format_args!("${number}"))
    }

    /// Appends values with commas between them; NULL, which nothing equals, where there is none.
    pub(super) fn push_list<T>(&mut self, values: impl IntoIterator<Item = T>) -> &mut Self
    where
        T: 'q + Encode<'q, Any> + Type<Any>,
    {
        let before = self.arguments.len();
        for value in values {
            if self.arguments.len() > before {
                self.push(", ");
            }
            self.push_bind(value);
        }
        if self.arguments.len() == before { self.push("NULL") } else { self }
    }

    /// The statement, to be run; call it once.
    pub(super) fn build<'s>(&'s mut self) -> Query<'s, Any, AnyArguments<'s>>
    where
        'q: 's,
    {
        sqlx::query_with(&self.sql, std::mem::take(&mut self.arguments))
    }
}
