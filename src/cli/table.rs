//! Aligned columns without lines. On a terminal the table keeps to its width, in a pipe nothing is cut or
//! wrapped, so that `grep` and `awk` see whole rows.

use comfy_table::{ContentArrangement, Table, presets::NOTHING};

use crate::cli::terminal::{StreamStyle, one_line};

/// Lays out rows under a header.
pub fn render(header: &[&str], rows: Vec<Vec<String>>, look: StreamStyle) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    match look.width {
        Some(width) => {
            table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| one_line(cell)).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piped_table_is_aligned_and_not_cut() {
        let long = "x".repeat(300);
        let rows = vec![vec!["7".to_owned(), long.clone()], vec!["12".to_owned(), "ü\ny".to_owned()]];
        let text = render(&["ID", "SUBJECT"], rows, StreamStyle::PLAIN);
        assert_eq!(text, format!("ID  SUBJECT\n7   {long}\n12  ü y"));
    }

    #[test]
    fn a_table_on_a_terminal_keeps_to_its_width() {
        let rows = vec![vec!["7".to_owned(), "word ".repeat(40)]];
        let text = render(&["ID", "SUBJECT"], rows, StreamStyle { ansi: false, width: Some(40) });
        assert!(text.lines().all(|line| line.len() <= 40), "{text}");
    }
}
