//! Rows in columns.

use df_core::text::escape;

/// Returns the rows below their heading, the columns aligned, cells escaped; an empty table has no heading.
pub fn render<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    if rows.is_empty() {
        return vec![];
    }
    let rows: Vec<[String; N]> = rows.iter().map(|row| std::array::from_fn(|i| escape(row[i].as_bytes()))).collect();
    let widths: [usize; N] =
        std::array::from_fn(|i| rows.iter().map(|row| row[i].chars().count()).chain([heading[i].len()]).max().unwrap_or(0));
    let line = |cells: [&str; N]| {
        let cells: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    let body = rows.iter().map(|row| line(std::array::from_fn(|i| row[i].as_str())));
    std::iter::once(line(heading)).chain(body).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["web1".into(), "a\nb".into()], ["longer-name".into(), String::new()]];
        assert_eq!(render(["NAME", "X"], &rows), ["NAME         X", "web1         a\\nb", "longer-name"]);
        assert_eq!(render(["NAME"], &[]), [""; 0]);
    }
}
