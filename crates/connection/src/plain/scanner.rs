//! A statement's text as tokens, read as its server reads it.

/// Whose SQL it is: what is a comment, a literal, a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Syntax {
    /// MySQL and MariaDB; whatever `sql_mode` says of quotes and backslashes. A user variable is never
    /// plain.
    MySql,
    /// PostgreSQL, whatever `standard_conforming_strings` says.
    Postgres,
    /// SQLite.
    Sqlite,
}

/// What a backslash in a literal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escapes {
    Nowhere,
    /// In those that PostgreSQL writes `E'..'`.
    Marked,
    SingleQuoted,
    BothQuoted,
}

#[derive(Clone)]
pub(super) struct Scanner<'a> {
    sql: &'a [u8],
    at: usize,
    syntax: Syntax,
    escapes: Escapes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// Keywords, and names without their quotes: those of functions count as well.
    Word(&'a [u8]),
    /// In quotes, which a keyword is not.
    Name(&'a [u8]),
    Semicolon,
    Open,
    Close,
    Comma,
    /// A literal, a number, a parameter, an operator.
    Other,
    /// A user variable, something that the server executes though it looks like a comment, something
    /// that does not end.
    Suspect,
}

impl<'a> Scanner<'a> {
    /// The ways in which `sql` can be read: what a backslash does depends on the server's settings.
    pub(super) fn ways(sql: &'a [u8], syntax: Syntax) -> impl Iterator<Item = Self> {
        let ways: &[Escapes] = match syntax {
            Syntax::Sqlite => &[Escapes::Nowhere],
            Syntax::Postgres => &[Escapes::Marked, Escapes::SingleQuoted],
            Syntax::MySql => &[Escapes::BothQuoted, Escapes::SingleQuoted, Escapes::Nowhere],
        };
        let ways = if sql.contains(&b'\\') { ways } else { &ways[..1] };
        ways.iter().map(move |&escapes| Self { sql, at: 0, syntax, escapes })
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.sql.get(self.at + ahead).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.sql.get(self.at..).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
        loop {
            self.at += self.rest().iter().take_while(|byte| is_space(byte)).count();
            // SQLite takes a byte order mark for one.
            if self.syntax != Syntax::Sqlite || !self.rest().starts_with(b"\xef\xbb\xbf") {
                return;
            }
            self.at += 3;
        }
    }

    fn begins_line_comment(&self) -> bool {
        let dashes = self.rest().starts_with(b"--");
        match self.syntax {
            Syntax::Postgres | Syntax::Sqlite => dashes,
            // `--` needs a space after it; without, it is two times minus.
            Syntax::MySql => {
                let is_space = |byte: u8| byte == b' ' || byte.is_ascii_control();
                self.peek(0) == Some(b'#') || dashes && self.peek(2).is_none_or(is_space)
            }
        }
    }

    /// To the end of the line, which not every server ends at the same byte.
    fn line_comment(&mut self) {
        let ends = |byte: &u8| match self.syntax {
            // MySQL's ends at a NUL, too, which is suspect by itself.
            Syntax::MySql => matches!(byte, b'\n' | 0),
            Syntax::Postgres => matches!(byte, b'\n' | b'\r'),
            Syntax::Sqlite => *byte == b'\n',
        };
        self.at += self.rest().iter().take_while(|byte| !ends(byte)).count();
    }

    /// Whether it is only a comment, and ends.
    fn block_comment(&mut self) -> bool {
        let executes = self.rest().starts_with(b"/*!") || self.rest().starts_with(b"/*M!");
        let begin = self.at;
        self.at += 2;
        if self.syntax == Syntax::MySql && executes {
            // What is in it comes as tokens, too.
            return false;
        }
        let mut depth = 1;
        while depth > 0 {
            match (self.peek(0), self.peek(1)) {
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                }
                (Some(b'/'), Some(b'*')) if self.syntax == Syntax::Postgres => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(_), _) => self.at += 1,
                (None, _) => return false,
            }
        }
        let comment = self.sql.get(begin..self.at).unwrap_or_default();
        // The end of a comment may stand in a name in an optimizer hint, and is none.
        let is_hint = self.syntax == Syntax::MySql && comment.starts_with(b"/*+");
        !is_hint || !comment.iter().any(|byte| matches!(byte, b'`' | b'"' | b'\''))
    }

    /// What is between a quote and the next one like it that is neither doubled nor escaped.
    fn quoted(&mut self, escaped: bool) -> Option<&'a [u8]> {
        let quote = self.peek(0)?;
        let begin = self.at + 1;
        self.at = begin;
        loop {
            match self.peek(0)? {
                b'\\' if escaped => self.at += 2,
                byte if byte == quote && self.peek(1) == Some(quote) => self.at += 2,
                byte => {
                    self.at += 1;
                    if byte == quote {
                        return self.sql.get(begin..self.at - 1);
                    }
                }
            }
        }
    }

    fn string(&mut self, escaped: bool) -> Token<'a> {
        match self.quoted(escaped) {
            None => Token::Suspect,
            Some(text) if self.syntax == Syntax::Sqlite => {
                // SQLite takes 'temp'.t for a name.
                self.skip_space();
                let may_be_name = matches!(self.peek(0), Some(b'.' | b'-' | b'/'));
                if may_be_name { Token::Name(text) } else { Token::Other }
            }
            Some(_) => Token::Other,
        }
    }

    fn name(&mut self) -> Token<'a> {
        let escaped = self.escapes == Escapes::BothQuoted && self.peek(0) == Some(b'"');
        self.quoted(escaped).map_or(Token::Suspect, Token::Name)
    }

    fn word(&mut self) -> Token<'a> {
        let is_part =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..);
        let length = self.rest().iter().take_while(|byte| is_part(byte)).count();
        let word = self.rest().get(..length).unwrap_or_default();
        self.at += length;
        if self.syntax != Syntax::Postgres {
            return Token::Word(word);
        }
        match (word, self.peek(0), self.peek(1)) {
            (b"E" | b"e", Some(b'\''), _) => {
                let string = self.string(true);
                self.skip_space();
                // The next line goes on with it, in the same way.
                if self.peek(0) == Some(b'\'') { Token::Suspect } else { string }
            }
            // Names and literals with escapes of their own.
            (b"U" | b"u", Some(b'&'), Some(b'\'' | b'"')) => Token::Suspect,
            _ => Token::Word(word),
        }
    }

    /// PostgreSQL's `$tag$..$tag$`, or a parameter.
    fn dollar(&mut self) -> Token<'a> {
        let is_tag = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | 0x80..);
        let rest = self.rest();
        let tag = rest.iter().skip(1).take_while(|byte| is_tag(byte)).count() + 2;
        let is_number = rest.get(1).is_some_and(u8::is_ascii_digit);
        let tag = match (rest.get(tag - 1), rest.get(..tag)) {
            (Some(b'$'), Some(tag)) if !is_number => tag,
            _ => return self.one(Token::Other),
        };
        let body = rest.get(tag.len()..).unwrap_or_default();
        match body.windows(tag.len()).position(|end| end == tag) {
            Some(end) => {
                self.at += tag.len() + end + tag.len();
                Token::Other
            }
            None => self.one(Token::Suspect),
        }
    }

    /// SQLite's parameter with a name, which may have anything in parentheses at its end.
    fn parameter(&mut self) -> Token<'a> {
        let is_part =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b':' | 0x80..);
        self.at += 1;
        self.at += self.rest().iter().take_while(|byte| is_part(byte)).count();
        if self.peek(0) == Some(b'(') { Token::Suspect } else { Token::Other }
    }

    fn one(&mut self, token: Token<'a>) -> Token<'a> {
        self.at += 1;
        token
    }
}

impl<'a> Iterator for Scanner<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        use Syntax::{MySql, Postgres, Sqlite};
        loop {
            self.skip_space();
            if self.begins_line_comment() {
                self.line_comment();
            } else if self.rest().starts_with(b"/*") {
                if !self.block_comment() {
                    return Some(Token::Suspect);
                }
            } else {
                break;
            }
        }
        Some(match (self.syntax, self.peek(0)?) {
            (MySql, b'@') if self.peek(1) == Some(b'@') => {
                self.at += 2;
                Token::Other
            }
            (_, 0) | (MySql, b'@') => self.one(Token::Suspect),
            (_, b';') => self.one(Token::Semicolon),
            (_, b'(') => self.one(Token::Open),
            (_, b')') => self.one(Token::Close),
            (_, b',') => self.one(Token::Comma),
            (_, b'\'') => {
                self.string(matches!(self.escapes, Escapes::SingleQuoted | Escapes::BothQuoted))
            }
            (_, b'"') | (MySql | Sqlite, b'`') => self.name(),
            (Sqlite, b'[') => match self.rest().iter().position(|byte| *byte == b']') {
                Some(end) => {
                    let name = self.rest().get(1..end).unwrap_or_default();
                    self.at += end + 1;
                    Token::Name(name)
                }
                None => self.one(Token::Suspect),
            },
            (Postgres, b'$') => self.dollar(),
            (Sqlite, b'$' | b'@' | b':' | b'#') => self.parameter(),
            (_, b'_' | b'a'..=b'z' | b'A'..=b'Z' | 0x80..) => self.word(),
            _ => self.one(Token::Other),
        })
    }
}
