//! Tables for people: plain columns, without borders.

use comfy_table::Table;
use comfy_table::presets::NOTHING;

/// A table with these headings.
pub fn new<const COLUMNS: usize>(headings: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(headings.to_vec());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}
