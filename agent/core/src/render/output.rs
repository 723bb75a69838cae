//! What a template renders to: text that knows for each of its lines the template line it comes from, and for each
//! inserted value where it begins and ends.

use std::ops::Range;
use std::sync::Arc;

/// A place in a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) file: Arc<str>,
    pub(super) line: u32,
    pub(super) column: u32,
}

/// A value that stands in the text and could change what is around it.
#[derive(Clone, Debug)]
pub(super) struct Insert {
    /// Its bytes in the text.
    pub(super) range: Range<usize>,
    pub(super) origin: Origin,
    /// The expression, for messages.
    pub(super) shown: String,
    /// What the scalar must read as, where the inserted text is that in quotes.
    pub(super) original: Option<String>,
}

/// Finished text.
#[derive(Clone, Debug, Default)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) inserts: Vec<Insert>,
    /// From this byte on the text comes from there.
    pub(super) origins: Vec<(usize, Origin)>,
}

impl Text {
    pub(super) fn plain(text: String) -> Self {
        Text { text, ..Text::default() }
    }

    /// The same text with every line that is not blank moved to the right.
    pub(super) fn indented(&self, by: usize) -> Text {
        let mut output = Output { indent: " ".repeat(by), ..Output::default() };
        output.write_text(self);
        output.done
    }

    /// The template line that a byte of the text comes from.
    pub(super) fn origin_at(&self, byte: usize) -> Option<Origin> {
        let after = self.origins.partition_point(|(from, _)| *from <= byte);
        self.origins.get(after.checked_sub(1)?).map(|(_, origin)| origin.clone())
    }
}

/// Text that is being written.
#[derive(Debug, Default)]
pub(super) struct Output {
    done: Text,
    /// Where the line that is being written begins.
    line_start: usize,
    /// Put before every line that is not blank.
    pub(super) indent: String,
}

impl Output {
    pub(super) fn len(&self) -> usize {
        self.done.text.len()
    }

    pub(super) fn finish(self) -> Text {
        self.done
    }

    pub(super) fn inserts(&self) -> usize {
        self.done.inserts.len()
    }

    /// What stands on the line that is being written, without the indent of partials.
    pub(super) fn line_so_far(&self) -> &str {
        let line = &self.done.text[self.line_start..];
        line.strip_prefix(&*self.indent).unwrap_or(line)
    }

    fn push(&mut self, text: &str) {
        if let Some(newline) = text.rfind('\n') {
            self.line_start = self.len() + newline + 1;
        }
        self.done.text.push_str(text);
    }

    /// Says where the text that follows comes from.
    pub(super) fn come_from(&mut self, origin: Origin) {
        let at = self.len();
        match self.done.origins.last_mut() {
            Some((from, last)) if *from == at => *last = origin,
            Some((_, last)) if *last == origin => {}
            _ => self.done.origins.push((at, origin)),
        }
    }

    /// Writes text of a template, whose lines follow each other there too.
    pub(super) fn write_source(&mut self, text: &str, file: &Arc<str>, first_line: u32) {
        for (line, number) in text.split_inclusive('\n').zip(first_line..) {
            self.come_from(Origin { file: Arc::clone(file), line: number, column: 1 });
            self.write(line);
        }
    }

    /// Writes text that comes from one place.
    pub(super) fn write(&mut self, text: &str) {
        if self.indent.is_empty() {
            self.push(text);
            return;
        }
        for line in text.split_inclusive('\n') {
            let is_blank = matches!(line, "\n" | "\r\n");
            if self.len() == self.line_start && !is_blank {
                self.done.text.push_str(&self.indent);
            }
            self.push(line);
        }
    }

    /// Writes a value that must stay within one scalar.
    pub(super) fn insert(&mut self, text: &str, origin: Origin, shown: String, original: Option<String>) {
        let start = self.len();
        self.write(text);
        self.done.inserts.push(Insert { range: start..self.len(), origin, shown, original });
    }

    /// Writes finished text, with what it knows of itself.
    pub(super) fn write_text(&mut self, text: &Text) {
        enum Mark {
            Origin(usize),
            Begin(usize),
            End(usize),
        }
        let mut marks: Vec<(usize, Mark)> = Vec::new();
        marks.extend(text.origins.iter().enumerate().map(|(index, (at, _))| (*at, Mark::Origin(index))));
        for (index, insert) in text.inserts.iter().enumerate() {
            marks.push((insert.range.start, Mark::Begin(index)));
            marks.push((insert.range.end, Mark::End(index)));
        }
        marks.sort_by_key(|(at, _)| *at);
        let mut written = 0;
        let first_insert = self.done.inserts.len();
        self.done.inserts.extend(text.inserts.iter().cloned());
        for (at, mark) in marks {
            self.write(&text.text[written..at]);
            written = at;
            let here = self.len();
            match mark {
                Mark::Origin(index) => self.come_from(text.origins[index].1.clone()),
                Mark::Begin(index) => self.done.inserts[first_insert + index].range.start = here,
                Mark::End(index) => self.done.inserts[first_insert + index].range.end = here,
            }
        }
        self.write(&text.text[written..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_indent_goes_before_lines_that_are_not_blank() {
        assert_eq!(Text::plain("a\n\n b\n".into()).indented(2).text, "  a\n\n   b\n");
    }

    #[test]
    fn what_a_text_knows_of_itself_moves_with_it() {
        let mut output = Output::default();
        output.write_source("x: ", &"a".into(), 1);
        output.insert("1", Origin { file: "a".into(), line: 1, column: 4 }, "v".into(), None);
        output.write_source("\ny: 2\n", &"a".into(), 1);
        let text = output.finish().indented(4);
        assert_eq!(text.text, "    x: 1\n    y: 2\n");
        assert_eq!(&text.text[text.inserts[0].range.clone()], "1");
        assert_eq!(text.origin_at(text.text.find('y').unwrap()).map(|origin| origin.line), Some(2));
    }
}
