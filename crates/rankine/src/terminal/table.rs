//! Plain columns.

/// Rows in columns that are as wide as their longest cell; the `right` columns are aligned to the right.
pub(crate) fn columns(rows: &[Vec<String>], right: &[usize], indent: &str) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (column, cell) in row.iter().enumerate() {
            let padding = " ".repeat(widths[column] - cell.chars().count());
            let gap = if column + 1 < row.len() { "  " } else { "" };
            if right.contains(&column) {
                line.push_str(&format!("{padding}{cell}{gap}"));
            } else {
                line.push_str(&format!("{cell}{padding}{gap}"));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
